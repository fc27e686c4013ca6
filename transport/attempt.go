package transport

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// An outgoing request and its header's value are one allocation.
type outgoing struct {
	http.Request
	value [1]string
}

// copyHeader returns a copy of the caller's header, and whether it has name, in
// whatever case: in one pass, for this is most of what an accepted request costs.
func copyHeader(req *http.Request, name string) (header http.Header, has bool) {
	header = maps.Clone(req.Header)
	if header == nil {
		header = make(http.Header, 1)
	}
	for k, v := range header {
		has = has || len(k) == len(name) && strings.EqualFold(k, name)
		if cap(v) > len(v) { // a base that adds a value must not write beyond the caller's
			header[k] = v[:len(v):len(v)]
		}
	}
	return header, has
}

// withHeader returns a shallow copy of the request, with a header that value is
// set in. Not Request.Clone: that copies Trailer, which net/http must see change
// when the body ends.
func withHeader(req *http.Request, header http.Header, body io.ReadCloser, trailer http.Header, name, value string) *http.Request {
	out := &outgoing{Request: *req, value: [1]string{value}}
	out.Header, out.Body, out.Trailer = header, body, trailer
	header[name] = out.value[:]
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
