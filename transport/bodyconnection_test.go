package transport_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
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

// A pipe is a listener whose connections are in memory: while something happens in a
// bubble, no bound of time passes.
type pipe struct {
	incoming chan net.Conn
	dials    int
}

func (p *pipe) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.dials++
	p.incoming <- server
	return client, nil
}

func (p *pipe) Accept() (net.Conn, error) {
	if c, ok := <-p.incoming; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p *pipe) Close() error   { close(p.incoming); return nil }
func (p *pipe) Addr() net.Addr { return new(net.UnixAddr) }

func TestConnectionIsUsedAgainWhenTheRefusedBodyWasSent(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"no body":              func(req *http.Request) { req.Body, req.GetBody, req.ContentLength = nil, nil, 0 },
		"GetBody":              func(*http.Request) {},
		"stream":               func(req *http.Request) { req.GetBody, req.ContentLength = nil, -1 },
		"stream with a length": func(req *http.Request) { req.GetBody = nil },
	} {
		for _, protocol := range protocols {
			synctest.Test(t, func(t *testing.T) {
				l := &pipe{incoming: make(chan net.Conn)}
				only := new(http.Protocols)
				only.SetHTTP1(protocol == "HTTP/1.1")
				only.SetUnencryptedHTTP2(protocol == "HTTP/2")
				server := &http.Server{Handler: &bodyAPI{readFirst: wholeBody}, Protocols: only}
				go server.Serve(l)
				base := &http.Transport{DialContext: l.dial, Protocols: only}
				for range 10 {
					req := postBody(t, "http://localhost", strings.NewReader("body"))
					change(req)
					getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
				}
				if l.dials != 1 {
					t.Errorf("%s, %s: got %d connections, want 1", protocol, name, l.dials)
				}
				base.CloseIdleConnections()
				server.Close()
			})
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
