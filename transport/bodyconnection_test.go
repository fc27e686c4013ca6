package transport_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestRefusalThatNeverEndsDoesNotHoldTheReplay(t *testing.T) {
	for _, protocol := range protocols {
		replayed := make(chan struct{})
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if r.Header.Get("Authorization") == "Bearer new" {
				close(replayed)
				return
			}
			w.WriteHeader(401)
			http.NewResponseController(w).Flush()
			<-replayed
		})
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, postBody(t, url, strings.NewReader("body")), 200)
	}
}

func TestRefusalThatNeverEndsDelaysTheReplayByAtMost100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer new" {
				return bodyAnswer(200, http.NoBody), nil
			}
			endless := newUntil()
			return &http.Response{StatusCode: 401, Body: endless}, nil
		})}
		began := time.Now()
		getsStatus(t, auth, postBody(t, "https://api.example", nil), 200)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the replay was delayed by %v, want at most 100ms", took)
		}
	})
}

func TestConnectionIsUsedAgainWhenTheRefusedBodyWasSent(t *testing.T) {
	stream := func(s string) *http.Request {
		return postBody(t, "http://x", io.MultiReader(strings.NewReader(s)))
	}
	sized := stream("body")
	sized.ContentLength = 4
	for name, template := range map[string]*http.Request{
		"no body": postBody(t, "http://x", nil), "GetBody": postBody(t, "http://x", strings.NewReader("body")),
		"stream": stream("body"), "stream with a length": sized,
	} {
		for _, protocol := range protocols {
			var connections atomic.Int32
			a := &bodyAPI{readFirst: wholeBody}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
				if !c.Reused {
					connections.Add(1)
				}
			}}
			for range 10 {
				req := postBody(t, url, nil).WithContext(httptrace.WithClientTrace(t.Context(), trace))
				req.GetBody, req.ContentLength = template.GetBody, template.ContentLength
				if template.Body != nil {
					req.Body = &bodyOf{Reader: strings.NewReader("body")}
				}
				getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%s, %s: got %d connections, want 1", protocol, name, n)
			}
		}
	}
}

// lastByte is a body whose end comes only when it is let go: what a server that knows the
// Content-Length does not wait for.
type lastByte struct {
	io.Reader
	end chan struct{}
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err == io.EOF {
		<-l.end
	}
	return n, err
}

func TestConnectionIsUsedAgainWhenTheServerIsFasterThanTheEndOfTheBody(t *testing.T) {
	a := &bodyAPI{readFirst: wholeBody}
	url, base := serveOver(t, "HTTP/1.1", a.ServeHTTP)
	end := make(chan struct{})
	auth := &transport.Auth{Base: base, Source: tokensource.Func(
		func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if old != nil {
				close(end) // only now, while the first attempt is held
			}
			return oldThenNew(ctx, old)
		})}
	// More than the transport's buffer, so that the bytes leave before the end is known.
	req := postBody(t, url, &lastByte{strings.NewReader(strings.Repeat("x", 8*kib)), end})
	req.ContentLength = 8 * kib
	reused := false
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
	}))
	getsStatus(t, auth, req, 200)
	if !reused {
		t.Error("the replay went over another connection, want the same")
	}
}
