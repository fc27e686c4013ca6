package faults_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

const kib, mib = 1 << 10, 1 << 20

// memory is the bound of the recordings of a client here.
const memory = mib

// Kinds of requests: without a body, with one that GetBody makes again, the same
// where the caller says that it may be sent twice, and with one that can be read
// once.
const (
	get        = "GET"
	getter     = "GetBody"
	idempotent = "GetBody, idempotent"
	stream     = "stream"
)

var kinds = []string{get, getter, stream}

// Stacks of transports under test. The bare one is net/http's, with a good token.
const (
	bare     = "net/http alone"
	alone    = "Auth"
	overDPoP = "Auth over DPoP"
)

// A client is a stack of transports over an API, and counts what passes through.
type client struct {
	t       *testing.T
	api     *api
	base    *http.Transport
	http    http.Client
	refresh func()       // called while another token is asked for, if not nil
	sent    atomic.Int32 // how often the base got the last request
	open    atomic.Int32 // connections
}

// each runs a test with each protocol and each stack, a client's memory bound
// and goroutines checked at the end.
func each(t *testing.T, test func(t *testing.T, a *api, c *client)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, stack := range []string{alone, overDPoP} {
			t.Run(protocol+", "+stack, func(t *testing.T) {
				leavesNothing(t)
				a := serveAPI(t, protocol)
				c := newClient(t, a, stack)
				test(t, a, c)
				c.recovers()
			})
		}
	}
}

func newClient(t *testing.T, a *api, stack string) *client {
	c := newClientOver(t, a.server.Client().Transport.(*http.Transport).Clone(), stack)
	c.api = a
	return c
}

var key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)

func newClientOver(t *testing.T, base *http.Transport, stack string) *client {
	c := &client{t: t, base: base}
	c.base.DialContext = c.dial
	counted := counting{base, &c.sent}
	auth := &transport.Auth{MaxBody: memory, MaxMemory: memory}
	switch c.http.Transport = auth; stack {
	case bare:
		c.http.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
			req = req.Clone(req.Context())
			req.Header.Set("Authorization", "Bearer new")
			return counted.RoundTrip(req)
		})
	case alone:
		auth.Source, auth.Base = c.source("Bearer"), counted
	case overDPoP:
		auth.Source, auth.Base = c.source("DPoP"), &transport.DPoP{Key: key, Base: counted}
	}
	t.Cleanup(base.CloseIdleConnections)
	return c
}

// source gives the token "old", and "new" to whoever was refused: so each
// request is refused once.
func (c *client) source(kind string) tokensource.Source {
	return tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old == nil {
			return &tokensource.Token{AccessToken: "old", TokenType: kind}, nil
		}
		if c.refresh != nil {
			c.refresh()
		}
		return &tokensource.Token{AccessToken: "new", TokenType: kind}, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// counting counts what its base gets, and passes CloseIdleConnections on: without that,
// a refused connection may be used again.
type counting struct {
	*http.Transport
	sent *atomic.Int32
}

func (c counting) RoundTrip(req *http.Request) (*http.Response, error) {
	c.sent.Add(1)
	return c.Transport.RoundTrip(req)
}

// dial connects with a small send buffer: Linux may take more than a whole
// upload into a loopback connection before anyone reads.
func (c *client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn.(*net.TCPConn).SetWriteBuffer(64 * kib)
	c.open.Add(1)
	return &counted{Conn: conn, closed: sync.OnceFunc(func() { c.open.Add(-1) })}, nil
}

// counted is a connection whose end is counted.
type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error { c.closed(); return c.Conn.Close() }

// disconnected waits until the client has closed all its connections.
func (c *client) disconnected() {
	if !eventually(func() bool { return c.open.Load() == 0 }) {
		c.t.Errorf("%d connections are open, want none", c.open.Load())
	}
}

// An upload is a body whose Close is counted, and that gives nothing after it.
type upload struct {
	io.Reader
	size   int64
	closes atomic.Int32
}

func (u *upload) Read(p []byte) (int, error) {
	if u.closes.Load() > 0 {
		return 0, os.ErrClosed
	}
	return u.Reader.Read(p)
}

func (u *upload) Close() error { u.closes.Add(1); return nil }

// upload returns the same random bytes each time. The test fails unless they
// are closed once.
func (c *client) upload(size int64) *upload {
	u := &upload{Reader: noise(size), size: size}
	c.t.Cleanup(func() {
		eventually(func() bool { return u.closes.Load() > 0 })
		if n := u.closes.Load(); n != 1 {
			c.t.Errorf("a body was closed %d times, want once", n)
		}
	})
	return u
}

// another returns what GetBody does. It may be left open, for net/http forgets
// one when it finds that a GOAWAY has left it no connection.
func (c *client) another(size int64) *upload {
	u := &upload{Reader: noise(size), size: size}
	c.t.Cleanup(func() {
		if n := u.closes.Load(); n > 1 {
			c.t.Errorf("a body of GetBody was closed %d times, want at most once", n)
		}
	})
	return u
}

func noise(size int64) io.Reader {
	return io.LimitReader(mathrand.NewChaCha8([32]byte{1}), size)
}

// A result is what a caller gets.
type result struct {
	status int
	length int64 // of the response's body
	err    error // of the request, or of the response's body
	sent   int   // how often the base got the request
}

func (r result) String() string {
	return fmt.Sprintf("status %d, %d bytes, error %v, %d attempts", r.status, r.length, r.err, r.sent)
}

// do sends a request and reads the answer. The test fails if that is good though
// the server has not got the whole body, or the request was sent more than twice.
func (c *client) do(ctx context.Context, kind string, size int64) result {
	return c.send(c.request(ctx, kind, size))
}

// request makes a request whose body is so large.
func (c *client) request(ctx context.Context, kind string, size int64) *http.Request {
	method := http.MethodPost
	if kind == get {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, c.api.url, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind != get {
		req.Body = c.upload(size)
	}
	if kind == idempotent {
		req.Header.Set("Idempotency-Key", "key")
	}
	if kind == getter || kind == idempotent {
		req.ContentLength = size
		req.GetBody = func() (io.ReadCloser, error) { return c.another(size), nil }
	}
	return req
}

func (c *client) send(req *http.Request) result {
	c.sent.Store(0)
	r, text := c.answer(req)
	r.sent = int(c.sent.Load())
	hash := sha256.New()
	if u, ok := req.Body.(*upload); ok {
		io.Copy(hash, noise(u.size))
	}
	if sum := fmt.Sprintf("%x", hash.Sum(nil)); r.err == nil && r.status/100 == 2 && text != sum {
		c.t.Errorf("the server got the sum %s and answered %d, want %s or no success", text, r.status, sum)
	}
	if r.sent > 2 {
		c.t.Errorf("sent %d times, want at most twice", r.sent)
	}
	return r
}

// answer sends a request, and returns the beginning of the answer besides.
func (c *client) answer(req *http.Request) (result, string) {
	resp, err := c.http.Do(req)
	if err != nil {
		return result{err: err}, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2*sha256.Size))
	rest, restErr := io.Copy(io.Discard, resp.Body)
	return result{status: resp.StatusCode, length: int64(len(text)) + rest, err: errors.Join(err, restErr)}, string(text)
}

// recovers checks, after a fault, that requests succeed again, and that all the
// memory for recordings is free: the last one needs it all.
func (c *client) recovers() {
	c.t.Helper()
	c.refresh = nil
	c.api.set(nil)
	for _, kind := range kinds {
		if r := c.do(c.t.Context(), kind, memory); r.status != 200 || r.err != nil || r.sent != 2 {
			c.t.Errorf("after the fault, %s: got %v, want 200 after two attempts", kind, r)
		}
	}
}
