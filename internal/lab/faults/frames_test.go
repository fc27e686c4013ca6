package faults_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"hash"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A link is a connection of an HTTP/2 server that sends frames as a script says.
type link struct {
	*http2.Framer
	headers *hpack.Decoder
	block   []byte // of headers that have not come whole
	streams map[uint32]*exchange
}

// An exchange is a request as that server sees it.
type exchange struct {
	id     uint32
	token  string
	length int
	sum    hash.Hash
	begun  bool // the first part of the headers has come
	opened bool // they have come whole
	ended  bool // all has come
}

// old reports whether it is the first attempt.
func (x *exchange) old() bool { return strings.HasSuffix(x.token, " old") }

// A script is told of each frame of a request, and returns true once it has
// answered it. What it does not answer is answered well.
type script func(c *link, x *exchange) bool

// serveFrames is an api of such a server. The script may be replaced in between.
func serveFrames(t *testing.T) (*api, *atomic.Pointer[script]) {
	a, current := &api{protocol: "HTTP/2"}, new(atomic.Pointer[script])
	a.server = httptest.NewUnstartedServer(nil)
	a.server.EnableHTTP2 = true
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		"h2": func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
			io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface)))
			c := &link{Framer: http2.NewFramer(conn, conn), streams: make(map[uint32]*exchange)}
			c.headers = hpack.NewDecoder(4096, nil)
			c.WriteSettings()
			c.serve(current)
		},
	}
	a.server.StartTLS()
	a.url = a.server.URL
	t.Cleanup(a.server.Close)
	return a, current
}

// serve answers until the client is gone.
func (c *link) serve(current *atomic.Pointer[script]) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return
		}
		x := c.took(f)
		if x == nil {
			continue
		}
		if s := current.Load(); s != nil && (*s)(c, x) {
			delete(c.streams, x.id)
		} else if x.ended {
			delete(c.streams, x.id)
			c.answer(x)
		}
	}
}

// took notes what a frame brings. It returns nil if that concerns no request
// that is to be answered yet.
func (c *link) took(f http2.Frame) *exchange {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.WriteSettingsAck()
		}
	case *http2.PingFrame:
		c.WritePing(true, f.Data)
	case *http2.HeadersFrame:
		c.streams[id] = &exchange{id: id, sum: sha256.New(), ended: f.StreamEnded()}
		return c.part(c.streams[id], f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		x := c.streams[id]
		if x == nil { // answered, but the table of headers goes on
			x = &exchange{id: id}
		}
		return c.part(x, f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.DataFrame:
		if n := f.Header().Length; n > 0 {
			c.WriteWindowUpdate(0, n)
			c.WriteWindowUpdate(id, n)
		}
		if x := c.streams[id]; x != nil {
			x.length += len(f.Data())
			x.sum.Write(f.Data())
			x.ended = f.StreamEnded()
			return x
		}
	}
	return nil
}

// part takes a part of a request's headers.
func (c *link) part(x *exchange, block []byte, last bool) *exchange {
	x.begun = true
	c.block = append(c.block, block...)
	if last {
		fields, _ := c.headers.DecodeFull(c.block)
		c.block, x.opened = nil, true
		for _, f := range fields {
			if f.Name == "authorization" {
				x.token = f.Value
			}
		}
	}
	if c.streams[x.id] == nil {
		return nil
	}
	return x
}

// answer answers as an api does.
func (c *link) answer(x *exchange) {
	if x.old() {
		c.status(x, "401", true)
		return
	}
	c.status(x, "200", false)
	c.WriteData(x.id, true, fmt.Appendf(nil, "%x", x.sum.Sum(nil)))
}

// status sends the headers of a response.
func (c *link) status(x *exchange, code string, end bool) {
	var block bytes.Buffer
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: code, Sensitive: true})
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: x.id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// eachFrames runs a test with each stack.
func eachFrames(t *testing.T, test func(c *client, set func(script))) {
	for _, stack := range []string{alone, overDPoP} {
		t.Run(stack, func(t *testing.T) {
			leavesNothing(t)
			a, current := serveFrames(t)
			c := newClient(t, a, stack)
			test(c, func(s script) { current.Store(&s) })
			current.Store(nil)
			c.recovers()
		})
	}
}

// Ways in which a server gives a request up without an answer.
var refusals = []struct {
	name  string
	do    func(c *link, x *exchange)
	again bool // net/http sends it again by itself, if it can
}{
	{"REFUSED_STREAM", func(c *link, x *exchange) { c.WriteRSTStream(x.id, http2.ErrCodeRefusedStream) }, true},
	{"GOAWAY", func(c *link, x *exchange) { c.WriteGoAway(x.id-1, http2.ErrCodeNo, nil) }, true},
	{"RST_STREAM with an error", func(c *link, x *exchange) { c.WriteRSTStream(x.id, http2.ErrCodeInternal) }, false},
}

// given gives up the one request of which so much has come and to which mine
// applies.
func givenUp(do func(c *link, x *exchange), after int, mine func(*exchange) bool) script {
	var spent atomic.Bool
	return func(c *link, x *exchange) bool {
		if !x.opened || !mine(x) || x.length < after && !x.ended || spent.Swap(true) {
			return false
		}
		do(c, x)
		return true
	}
}

// net/http sends again what has no body or has GetBody. What is recorded it does
// not: the caller gets the error, as without Auth.
func TestAnHTTP2ServerThatGivesARequestUpCostsWhatItCostsWithoutAuth(t *testing.T) {
	eachFrames(t, func(c *client, set func(script)) {
		plain := newClient(c.t, c.api, bare)
		any := func(*exchange) bool { return true }
		for _, r := range refusals {
			for _, kind := range kinds {
				for _, after := range []int{0, 64 * kib} {
					good := r.again && kind != stream
					set(givenUp(r.do, after, any))
					if got := plain.do(c.t.Context(), kind, memory); (got.err == nil) != good {
						c.t.Errorf("%s after %d, %s, net/http alone: got %v, want a success: %v", r.name, after, kind, got, good)
					}
					for attempt, mine := range []func(*exchange) bool{(*exchange).old, func(x *exchange) bool { return !x.old() }} {
						set(givenUp(r.do, after, mine))
						got := c.do(c.t.Context(), kind, memory)
						if good && (got.status != 200 || got.sent != 2) || !good && (got.err == nil || got.sent != attempt+1) {
							c.t.Errorf("%s after %d, %s, attempt %d: got %v, want a success: %v", r.name, after, kind, attempt+1, got, good)
						}
					}
				}
			}
		}
	})
}

// Ways in which a server refuses a request before it has come whole.
var earlies = map[string]func(c *link, x *exchange){
	"the end of the stream": func(c *link, x *exchange) { c.status(x, "401", true) },
	"NO_ERROR": func(c *link, x *exchange) {
		c.status(x, "401", true)
		c.WriteRSTStream(x.id, http2.ErrCodeNo)
	},
	"NO_ERROR, and the response unfinished": func(c *link, x *exchange) {
		c.status(x, "401", false)
		c.WriteRSTStream(x.id, http2.ErrCodeNo)
	},
	"CANCEL": func(c *link, x *exchange) {
		c.status(x, "401", false)
		c.WriteRSTStream(x.id, http2.ErrCodeCancel)
	},
	"REFUSED_STREAM": func(c *link, x *exchange) {
		c.status(x, "401", false)
		c.WriteRSTStream(x.id, http2.ErrCodeRefusedStream)
	},
	"nothing": func(c *link, x *exchange) { c.status(x, "401", false) },
	"GOAWAY": func(c *link, x *exchange) {
		c.WriteGoAway(x.id, http2.ErrCodeNo, nil)
		c.status(x, "401", true)
	},
}

func TestAnHTTP2RefusalInTheMiddleOfTheBodyIsFollowedByAWholeOne(t *testing.T) {
	eachFrames(t, func(c *client, set func(script)) {
		for name, do := range earlies {
			for _, after := range []int{0, 64 * kib, memory} {
				for _, kind := range kinds {
					set(givenUp(do, after, (*exchange).old))
					if r := c.do(c.t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
						c.t.Errorf("401 with %s after %d, %s: got %v, want 200 after two attempts", name, after, kind, r)
					}
				}
			}
		}
	})
}

// The rest of the headers comes after the 401.
func TestAnHTTP2RefusalInTheMiddleOfTheHeadersIsFollowedByAWholeRequest(t *testing.T) {
	eachFrames(t, func(c *client, set func(script)) {
		for _, kind := range kinds {
			var spent atomic.Bool
			set(func(l *link, x *exchange) bool {
				if x.opened || spent.Swap(true) {
					return false
				}
				l.status(x, "401", true)
				return true
			})
			req := c.request(c.t.Context(), kind, memory)
			req.Header.Set("X-Large", strings.Repeat("x", 256*kib))
			if r := c.send(req); r.status != 200 || r.err != nil || r.sent != 2 {
				c.t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
			}
		}
	})
}
