package transport

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// An outgoing request and its header's value are one allocation.
type outgoing struct {
	http.Request
	value [1]string
}

// has reports whether the caller has set a header, by one of its spellings. To
// compare all names would take a third of the time that an accepted request costs.
func has(header http.Header, spellings ...string) bool {
	for _, name := range spellings {
		if _, ok := header[name]; ok {
			return true
		}
	}
	return false
}

// withHeader returns a shallow copy of the request, with a header set. Not
// Request.Clone: that copies Trailer, which net/http must see change when the
// body ends, and every value of the header, which no RoundTripper may change.
func withHeader(req *http.Request, body io.ReadCloser, trailer http.Header, name, value string) *http.Request {
	out := &outgoing{Request: *req, value: [1]string{value}}
	out.Body, out.Trailer = body, trailer
	out.Header = maps.Clone(req.Header)
	if out.Header == nil {
		out.Header = make(http.Header, 1)
	}
	out.Header[name] = out.value[:]
	return &out.Request
}

// answered sends out, and answers as if base had been sent req: without the
// token, and with the chain of redirects that the next hop is judged by.
func answered(base http.RoundTripper, req, out *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(out)
	if resp != nil {
		resp.Request = req
	} else if err == nil {
		err = fmt.Errorf("transport: Auth.Base or DPoP.Base, a %T, returned neither a response nor an error", base)
	}
	return resp, err
}

// discard closes a refused response. If its request was sent to the end, it
// reads the rest first, so that the connection can be used again: at most 64
// KiB, for at most 50 ms, and not beyond the request's context.
//
// If it was not, neither may be waited for while a Read of the caller's body is
// in progress: with HTTP/2, Close waits for it.
func discard(resp *http.Response, next replay.Next) {
	if resp.Body == nil {
		return // http.Client lets a RoundTripper do that
	}
	closed := make(chan struct{})
	var closing atomic.Bool // not a sync.Once: nobody waits for a Close that waits
	closeBody := func() {
		if !closing.Swap(true) {
			resp.Body.Close()
		}
	}
	go func() {
		defer close(closed)
		if next.Sent {
			io.CopyN(io.Discard, resp.Body, 64<<10)
		}
		closeBody()
	}()
	if next.Reading && !next.Sent {
		return
	}
	timer := time.NewTimer(50 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-closed:
		return
	case <-timer.C:
	case <-resp.Request.Context().Done():
	}
	go closeBody()
}

func closeIdle(base http.RoundTripper) {
	if c, ok := base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
