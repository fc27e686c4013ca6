package transport

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
	"github.com/tokentripper/tokentripper/internal/replay"
)

// An outgoing request and the value of its header share one allocation.
type outgoing struct {
	http.Request
	value [1]string
}

// An outgoingUpload shares its allocation with a body that GetBody can make again, too.
type outgoingUpload struct {
	outgoing
	body replay.Gated
}

// has reports whether the caller has set a header under one of its spellings. Comparing
// all names would take a third of the time that an accepted request costs.
func has(header http.Header, spellings ...string) bool {
	for _, name := range spellings {
		if _, ok := header[name]; ok {
			return true
		}
	}
	return false
}

// withHeader returns a shallow copy of the request with a header set. Request.Clone
// does not fit: it copies Trailer, which net/http must see change when the body ends,
// and it copies the value slices of the header, which no RoundTripper may change.
func withHeader(req *http.Request, body io.ReadCloser, trailer http.Header, name, value string) *http.Request {
	var out *outgoing
	if replay.Large(req) {
		upload := new(outgoingUpload)
		body = upload.body.Of(req, body)
		out = &upload.outgoing
	} else {
		out = new(outgoing)
	}
	out.Request, out.value[0] = *req, value
	out.Body, out.Trailer = body, trailer
	out.Header = maps.Clone(req.Header)
	if out.Header == nil {
		out.Header = make(http.Header, 1)
	}
	out.Header[name] = out.value[:]
	return &out.Request
}

// answered sends out and returns the answer as if base had received req: resp.Request
// has no token, and has the chain of redirects by which the next hop is judged.
func answered(base http.RoundTripper, req, out *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(out)
	if body, ok := out.Body.(interface{ Answered() }); ok {
		body.Answered()
	}
	if resp != nil {
		resp.Request = req
	} else if err == nil {
		err = fmt.Errorf("transport: Auth.Base or DPoP.Base, a %T, returned neither a response nor an error", base)
	}
	return resp, err
}

// discard closes a refused response whose request is sent again.
//
// After a small request it first reads the rest, so that the connection can be used
// again: at most 64 KiB, for at most 50 ms, and not beyond the request's context.
//
// After an upload it makes sure that the connection is not used again, because a server
// or proxy that refused early closes it a moment later or stops reading: nginx,
// HAProxy, Squid, lighttpd and others do. An HTTP/1.1 response with a body keeps its
// connection out of the pool. Closing the response ends that connection, unless the
// body was read, as by [PeekJSON]. Other connections are in the pool already. A
// connection of HTTP/2 ends once no other request is on it. Base can only be told to
// close all idle connections. The second attempt waits for that: at most 1 s, or 50 ms
// where Close may wait for the server or for the caller's body. Over HTTP/3 nothing is
// closed: a stream ends without harm to its connection, and http3.Transport of quic-go
// v0.65.0 would cut responses that are still being read.
func discard(base http.RoundTripper, resp *http.Response, next replay.Next) {
	ended := resp.Body == http.NoBody
	pooled := ended || resp.ProtoMajor != 1 || resp.ContentLength == 0
	closeEnds(resp)
	if next.Small {
		drain(resp, next)
		return
	}
	if b, ok := resp.Body.(*beginning); ok && b.whole() {
		ended, pooled = true, true
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if resp.Body != nil {
			resp.Body.Close()
		}
		if resp.ProtoMajor == 2 && resp.Body == http.NoBody {
			time.Sleep(time.Millisecond) // the stream ends a little later than its response
		}
		if pooled && resp.ProtoMajor < 3 {
			closeIdle(base)
		}
	}()
	within := closeWithin
	if ended && !next.Reading { // Close waits neither for the server nor for the caller's body
		within = time.Second
	}
	clock.Wait(resp.Request.Context(), closed, within)
}

// closeWithin is how long to wait for Close. With HTTP/2, Close waits for a Read of the
// caller's body.
const closeWithin = 50 * time.Millisecond

// closeEnds makes Close end the connection of a response that was not read to its end.
// Go 1.27 reads on after Close, unless the body is longer than 256 KiB: for 50 ms or, in
// a synctest bubble, without end if a Read is in progress. No caller may have the
// response yet.
func closeEnds(resp *http.Response) { resp.ContentLength = math.MaxInt64 }

// drain closes a response. If its request was sent to the end, drain first reads the
// rest. It does not read what net/http decompresses, because Close would wait until
// data arrives (as of Go 1.26).
func drain(resp *http.Response, next replay.Next) {
	if resp.Body == nil {
		return // http.Client accepts a nil Body
	}
	closed := make(chan struct{})
	var closing atomic.Bool // not a sync.Once: a second caller must not wait for a Close that blocks
	closeBody := func() {
		if !closing.Swap(true) {
			resp.Body.Close()
		}
	}
	go func() {
		defer close(closed)
		if next.Sent && !resp.Uncompressed {
			io.CopyN(io.Discard, resp.Body, 64<<10)
		}
		closeBody()
	}()
	if next.Reading && !next.Sent {
		return // with HTTP/2, Close waits for the caller's body
	}
	clock.Wait(resp.Request.Context(), closed, closeWithin)
	go closeBody()
}

// abandon closes a response that is not returned, without waiting.
func abandon(resp *http.Response) {
	if resp.Body != nil {
		go resp.Body.Close()
	}
}

// closeIdle closes the idle connections of base, or of the first layer below it that
// can close them.
func closeIdle(base http.RoundTripper) {
	for range 100 { // wrappers may form a cycle
		switch b := base.(type) {
		case interface{ CloseIdleConnections() }:
			b.CloseIdleConnections()
			return
		case interface{ WrappedRoundTripper() http.RoundTripper }:
			base = b.WrappedRoundTripper()
		}
	}
}
