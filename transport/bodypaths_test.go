package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A path is one of the ways through RoundTrip. Its steps are what the Source and the
// base answer, in turn: a token, a status, or an error.
type path struct {
	name   string
	steps  []any
	change func(*http.Request)
	sent   int  // how often the base gets the request
	fails  bool // RoundTrip returns an error
	closes bool // Auth closes the body by itself, whatever the base does

	readFirst bool // the base reads the body before it answers, whatever else it does
}

var errStep = errors.New("as the step says")

const refusedByTheGuard = "refused by the guard"

// paths lists all the ways through RoundTrip.
var paths = []path{
	{name: "Authorization set by the caller", steps: []any{401}, sent: 1,
		change: func(r *http.Request) { r.Header.Set("Authorization", "Basic eDp5") }},
	{name: "plain http", fails: true, closes: true, change: func(r *http.Request) { r.URL.Scheme = "http" }},
	{name: "no token", steps: []any{errStep}, fails: true, closes: true},
	{name: "bad token", steps: []any{"a\nb"}, fails: true, closes: true},
	{name: "accepted", steps: []any{"a", 200}, sent: 1},
	{name: "base error", steps: []any{"a", errStep}, sent: 1, fails: true},
	{name: "replayed", steps: []any{"b", 401, "c", 200}, sent: 2},
	{name: "replay fails", steps: []any{"b", 401, "d", errStep}, sent: 2, fails: true},
	{name: "replay refused", steps: []any{"b", 401, "e", 401}, sent: 2},
	{name: refusedByTheGuard, steps: []any{"e", 401}, sent: 1}, // e was refused just now, too
	{name: "same token", steps: []any{"b", 401, "b"}, sent: 1},
	{name: "no other token", steps: []any{"b", 401, errStep}, sent: 1, fails: true, closes: true},
	{name: "other token is bad", steps: []any{"b", 401, "a\nb"}, sent: 1, fails: true, closes: true},
	{name: "cancelled", steps: []any{"b", 401, context.Canceled}, sent: 1, fails: true, closes: true},
	{name: "cannot be replayed", steps: []any{"b", 401, "f"}, sent: 1, readFirst: true, change: tooLarge},
	{name: "cannot be replayed, no other token", steps: []any{"b", 401, errStep}, sent: 1, readFirst: true, change: tooLarge},
	{name: "body fails", steps: []any{"b", 401, "f"}, sent: 1, readFirst: true,
		change: func(r *http.Request) { r.Body.(*bodyOf).Reader = iotest.ErrReader(errStep) }},
	{name: "GetBody", steps: []any{"b", 401, "c", 200}, sent: 2, change: func(r *http.Request) {
		r.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
	}},
	{name: "GetBody fails", steps: []any{"b", 401, "c"}, sent: 1, change: func(r *http.Request) {
		r.GetBody = func() (io.ReadCloser, error) { return nil, errStep }
	}},
}

func tooLarge(r *http.Request) {
	r.Body.(*bodyOf).Reader = strings.NewReader(strings.Repeat("x", 128*kib+1))
}

// A walk goes the paths, over one Auth: it is its Source and what its base answers.
type walk struct {
	path
	kind  string // TokenType
	steps []any
	sent  int                 // shadows the path's
	read  func(io.ReadCloser) // what the base does with a body
}

func (w *walk) next() any {
	step := w.steps[0]
	w.steps = w.steps[1:]
	return step
}

func (w *walk) Token(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	switch step := w.next().(type) {
	case string:
		return &tokensource.Token{AccessToken: step, TokenType: w.kind}, nil
	default:
		return nil, step.(error)
	}
}

func (w *walk) RoundTrip(req *http.Request) (*http.Response, error) {
	w.sent++
	if w.readFirst {
		io.Copy(io.Discard, req.Body)
	}
	w.read(req.Body)
	if status, ok := w.next().(int); ok {
		return bodyAnswer(status, strings.NewReader("body")), nil
	}
	return nil, errStep
}

// challenging answers each attempt with a demand for a new nonce, and what w
// answers once that has come. Bodies that can't be sent again it spares.
func challenging(w *walk) roundTripper {
	nonces := 0
	return func(req *http.Request) (*http.Response, error) {
		spared := w.readFirst
		if req.GetBody != nil {
			_, err := req.GetBody()
			spared = err != nil
		}
		if nonce, _ := proofClaims(req)["nonce"].(string); spared || nonces > 0 && nonce == fmt.Sprint(nonces) {
			nonces++ // used up
			return w.RoundTrip(req)
		}
		w.read(req.Body)
		nonces++
		resp := bodyAnswer(401, strings.NewReader("nonce"))
		resp.Header.Set("DPoP-Nonce", fmt.Sprint(nonces))
		resp.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		return resp, nil
	}
}

// bases are what a base may do with a body.
var bases = map[string]func(io.ReadCloser){
	"reads and closes": func(b io.ReadCloser) { io.Copy(io.Discard, b); b.Close() },
	"closes unread":    func(b io.ReadCloser) { b.Close() },
	"goes on reading":  func(b io.ReadCloser) { go func() { io.Copy(io.Discard, b); b.Close() }() },
	"never closes":     func(b io.ReadCloser) { io.Copy(io.Discard, b) },
}

// send sends a request along a path, and waits until the base is done with it.
func (w *walk) send(auth *transport.Auth, p path, req *http.Request) error {
	time.Sleep(5 * time.Minute) // until the guard has forgotten the paths before
	if p.name == refusedByTheGuard {
		w.path, w.steps = path{}, []any{"b", 401, "e", 401}
		bare := req.Clone(req.Context())
		bare.Body, bare.Trailer = http.NoBody, nil
		auth.RoundTrip(bare)
	}
	w.path, w.steps, w.sent = p, p.steps, 0
	resp, err := auth.RoundTrip(req)
	if resp != nil {
		resp.Body.Close()
	}
	synctest.Wait()
	return err
}

func pathRequest(t *testing.T, p path) (*http.Request, *bodyOf) {
	body := &bodyOf{Reader: strings.NewReader(strings.Repeat("x", 64*kib+1))}
	req := postBody(t, "https://api.example/path", nil)
	req.Body = body
	req.Header.Set("X-Mine", "mine")
	req.Trailer = http.Header{"X-Sum": {"sum"}}
	if p.change != nil {
		p.change(req)
	}
	return req, body
}

// eachPath goes every path with every base, over one Auth for each base, alone
// and over a DPoP whose server demands a new nonce each time.
func eachPath(t *testing.T, check func(t *testing.T, base string, p path, w *walk, auth *transport.Auth)) {
	for name, read := range bases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &walk{read: read}
				auth := &transport.Auth{Source: w, Base: w, MaxBody: 128 * kib, MaxMemory: 128 * kib}
				for _, p := range paths {
					check(t, name, p, w, auth)
				}
			})
		})
		t.Run(name+", over DPoP", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &walk{read: read, kind: "DPoP"}
				dpop := &transport.DPoP{Key: p256, Base: challenging(w)}
				auth := &transport.Auth{Source: w, Base: dpop, MaxBody: 128 * kib, MaxMemory: 128 * kib}
				for _, p := range paths {
					check(t, name, p, w, auth)
				}
			})
		})
	}
}

func TestBodyIsClosedOnceOnEveryPath(t *testing.T) {
	eachPath(t, func(t *testing.T, base string, p path, w *walk, auth *transport.Auth) {
		req, body := pathRequest(t, p)
		err := w.send(auth, p, req)
		want := int32(1)
		if base == "never closes" && !p.closes {
			want = 0
		}
		if got := body.closes.Load(); got != want {
			t.Errorf("%s: body closed %d times, want %d", p.name, got, want)
		}
		if (err != nil) != p.fails || w.sent != p.sent || len(w.steps) != 0 {
			t.Errorf("%s: got error %v, %d attempts and the steps %v left, want an error: %v, %d and none",
				p.name, err, w.sent, w.steps, p.fails, p.sent)
		}
	})
}

func TestRequestIsUnchangedOnEveryPath(t *testing.T) {
	eachPath(t, func(t *testing.T, base string, p path, w *walk, auth *transport.Auth) {
		req, _ := pathRequest(t, p)
		before, header, trailer, url := *req, req.Header.Clone(), req.Trailer.Clone(), *req.URL
		w.send(auth, p, req)
		if (req.GetBody == nil) != (before.GetBody == nil) {
			t.Errorf("%s: GetBody was changed", p.name)
		}
		req.GetBody, before.GetBody = nil, nil // not comparable
		if !reflect.DeepEqual(*req, before) || req.Body != before.Body {
			t.Errorf("%s: got request %+v, want %+v", p.name, *req, before)
		}
		if !reflect.DeepEqual(req.Header, header) || !reflect.DeepEqual(req.Trailer, trailer) || *req.URL != url {
			t.Errorf("%s: got %v, %v, %v, want %v, %v, %v", p.name, req.Header, req.Trailer, req.URL, header, trailer, &url)
		}
	})
}

func TestBudgetIsGivenBackOnEveryPath(t *testing.T) {
	eachPath(t, func(t *testing.T, base string, p path, w *walk, auth *transport.Auth) {
		for range 3 { // more than the budget
			req, _ := pathRequest(t, p)
			w.send(auth, p, req)
		}
		req, _ := pathRequest(t, p)
		req.Header.Del("Authorization")
		req.URL.Scheme, req.GetBody = "https", nil
		req.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 128*kib)))
		if err := w.send(auth, path{steps: []any{"y", 401, "z", 200}, readFirst: true}, req); err != nil || w.sent != 2 {
			t.Errorf("after %s: a request that needs the whole budget got %v after %d attempts, want 2", p.name, err, w.sent)
		}
	})
}
