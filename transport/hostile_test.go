package transport_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

var refuseAll = func(string) bool { return false }

func post(ctx context.Context, body io.Reader) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://api.example.com/", body)
	return req
}

func TestUploadsThatCannotBeSentAgainAreGuardedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: &api{likes: refuseAll}, MaxBody: -1}
		for range 50 {
			resp, err := auth.RoundTrip(post(t.Context(), io.MultiReader(strings.NewReader("x"))))
			if err != nil || resp.StatusCode != 401 {
				t.Fatalf("got %v, want the 401", err)
			}
		}
		if got := tokens.issued.Load(); got > 2 {
			t.Errorf("%d token requests at one moment, want at most 2", got)
		}
	})
}

func TestTokensThatComeInTurnsAreGuardedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		source := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			return &tokensource.Token{AccessToken: []string{"even", "odd"}[calls.Add(1)%2]}, nil
		})
		auth := &transport.Auth{Source: &tokensource.Cache{Source: source}, Base: &api{likes: refuseAll}}
		for range 10 {
			get(t, auth)
			time.Sleep(5 * time.Second)
		}
		before := calls.Load()
		for range 50 {
			get(t, auth)
		}
		if got := calls.Load() - before; got > 1 {
			t.Errorf("%d token requests at one moment, want at most 1", got)
		}
	})
}

// An inbound body is like that of a server: Close waits for Read.
type inboundBody struct {
	mu            sync.Mutex
	reading, gate chan struct{}
}

func (b *inboundBody) Read([]byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.reading)
	<-b.gate
	return 0, io.EOF
}

func (b *inboundBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return nil
}

func TestRoundTripDoesNotWaitForTheCallersClose(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusRequestEntityTooLarge} {
		body := &inboundBody{reading: make(chan struct{}), gate: make(chan struct{})}
		read := make(chan struct{})
		auth := &transport.Auth{
			Source: tokensource.Func(unwilling),
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				go func() { io.Copy(io.Discard, req.Body); close(read) }()
				<-body.reading
				req.Body.Close() // as HTTP/2 does with a status above 299
				rec := httptest.NewRecorder()
				rec.WriteHeader(status)
				return rec.Result(), nil
			}),
		}
		auth.RoundTrip(post(t.Context(), body)) // hangs if it waits
		close(body.gate)
		<-read
	}
}

// endless never ends, and counts how often it is closed.
type endless struct {
	closed chan struct{}
	closes atomic.Int32
}

func (e *endless) Read([]byte) (int, error) { <-e.closed; return 0, io.ErrUnexpectedEOF }

func (e *endless) Close() error {
	if e.closes.Add(1) == 1 {
		close(e.closed)
	}
	return nil
}

func TestARefusedResponseIsClosedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusal := &endless{closed: make(chan struct{})}
		server := &api{likes: func(token string) bool { return token != "token-1" }}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: new(issuer)}}
		auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := server.RoundTrip(req)
			if resp.StatusCode == 401 {
				resp.Body = refusal
			}
			return resp, err
		})
		if err := ok(t, auth); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := refusal.closes.Load(); got != 1 {
			t.Errorf("closed %d times, want 1", got)
		}
	})
}

// A hanging is a body whose Read waits for Close, and whose Close waits for a minute.
type hanging struct{ closing chan struct{} }

func (h hanging) Read([]byte) (int, error) { <-h.closing; return 0, io.EOF }

func (h hanging) Close() error {
	close(h.closing)
	time.Sleep(time.Minute)
	return nil
}

func TestARefusedResponseThatHangsHoldsNobodyBeyondHisDeadline(t *testing.T) {
	for patience, want := range map[time.Duration]time.Duration{120 * time.Millisecond: 120 * time.Millisecond, time.Hour: 150 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer token-1" {
					return &http.Response{StatusCode: 401, Body: hanging{make(chan struct{})}}, nil
				}
				return nil, errors.New("sent again")
			})
			auth := &transport.Auth{Source: &tokensource.Cache{Source: new(issuer)}, Base: base} // 50 ms for each token
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			auth.RoundTrip(post(ctx, nil))
			if got := time.Since(began); got != want {
				t.Errorf("patience %v: returned after %v, want %v", patience, got, want)
			}
			time.Sleep(time.Hour) // until all is closed
		})
	}
}

// unwilling hands out one token, and no other.
func unwilling(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if old != nil {
		return nil, tokensource.ErrReauthenticate
	}
	return &tokensource.Token{AccessToken: "a"}, nil
}

// An unclosable body is closed when the gate opens.
type unclosable struct {
	gate   chan struct{}
	closes atomic.Int32
}

func (u *unclosable) Read([]byte) (int, error) { <-u.gate; return 0, io.EOF }

func (u *unclosable) Close() error { <-u.gate; u.closes.Add(1); return nil }

func TestARefusedResponseThatCannotBeClosedHoldsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		source tokensource.Func
		takes  time.Duration
	}{
		"replayed":       {oldThenNew, 50 * time.Millisecond},
		"no other token": {unwilling, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			refusal := &unclosable{gate: make(chan struct{})}
			auth := &transport.Auth{Source: c.source, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer new" {
					return httptest.NewRecorder().Result(), nil
				}
				return &http.Response{StatusCode: 401, Body: refusal}, nil
			})}
			began := time.Now()
			get(t, auth)
			if took := time.Since(began); took != c.takes {
				t.Errorf("%s: took %v, want %v", name, took, c.takes)
			}
			close(refusal.gate)
			synctest.Wait()
			if got := refusal.closes.Load(); got != 1 {
				t.Errorf("%s: closed %d times, want 1", name, got)
			}
		})
	}
}

// A slowClose takes 10 ms to close.
type slowClose struct {
	io.Reader
	closed atomic.Bool
}

func (s *slowClose) Close() error {
	time.Sleep(10 * time.Millisecond)
	s.closed.Store(true)
	return nil
}

// So that its connection can be used again, or is closed first.
func TestARefusedResponseIsClosedBeforeTheReplayUnlessARestOfTheBodyIsAwaited(t *testing.T) {
	for name, c := range map[string]struct {
		length int64 // as it is declared
		reads  bool  // the base reads, and waits for more
		want   bool
	}{
		"nothing was read":                     {want: true},
		"all was read but the end":             {length: 4, reads: true, want: true},
		"some was read and more is on its way": {reads: true, want: false},
	} {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			refusal := &slowClose{Reader: strings.NewReader("no")}
			closed := false
			auth := &transport.Auth{Source: oldThenNew, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer new" {
					closed = refusal.closed.Load()
					close(gate)
					return bodyAnswer(200, req.Body), nil
				}
				if c.reads {
					go io.Copy(io.Discard, req.Body)
					synctest.Wait()
				}
				return &http.Response{StatusCode: 401, Body: refusal}, nil
			})}
			req := post(t.Context(), &lastByte{strings.NewReader("body"), gate})
			req.ContentLength = c.length
			getsStatus(t, auth, req, 200)
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if closed != c.want || !refusal.closed.Load() {
				t.Errorf("%s: closed before the replay: %t, want %t; at last: %t", name, closed, c.want, refusal.closed.Load())
			}
		})
	}
}

func TestAnEndlessRefusalOfABodyThatWasNotSentIsClosedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &transport.Auth{Source: oldThenNew, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer new" {
				return bodyAnswer(200, http.NoBody), nil
			}
			return &http.Response{StatusCode: 401, Body: newUntil()}, nil
		})}
		began := time.Now()
		getsStatus(t, auth, post(t.Context(), io.MultiReader(strings.NewReader("body"))), 200)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v, want no wait", took)
		}
	})
}

func TestTheErrorOfABaseComesAsItIs(t *testing.T) {
	broken := errors.New("broken")
	auth := &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "a"})}
	auth.Base = roundTripper(func(*http.Request) (*http.Response, error) { return nil, broken })
	for _, rt := range []http.RoundTripper{auth, &transport.DPoP{Key: p256, Base: auth.Base}} {
		if _, _, err := get(t, rt); err != broken {
			t.Errorf("%T: got %v, want the base's own error", rt, err)
		}
	}
}

func TestAnAuthWithoutASourceIsAnErrorThatNamesIt(t *testing.T) {
	if _, _, err := get(t, &transport.Auth{Base: unsent(t)}); err == nil || !strings.Contains(err.Error(), "Auth.Source") {
		t.Errorf("got %v, want an error that names Auth.Source", err)
	}
}

func TestASourceThatReturnsNothingIsAnError(t *testing.T) {
	for _, base := range []http.RoundTripper{unsent(t), &transport.DPoP{Key: p256, Base: unsent(t)}} {
		if _, _, err := get(t, &transport.Auth{Source: tokensource.Static(nil), Base: base}); err == nil || !strings.Contains(err.Error(), "no token") {
			t.Errorf("over %T: got %v, want an error", base, err)
		}
	}
}

func TestARequestWithoutAURLIsTheBasesAffair(t *testing.T) {
	broken := errors.New("no URL")
	auth := &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "a"})}
	for _, auth.Base = range []http.RoundTripper{
		roundTripper(func(*http.Request) (*http.Response, error) { return nil, broken }),
		&transport.DPoP{Base: roundTripper(func(*http.Request) (*http.Response, error) { return nil, broken })},
	} {
		if _, err := auth.RoundTrip(new(http.Request)); err != broken {
			t.Errorf("got %v, want the base's error", err)
		}
	}
}

func TestABaseThatReturnsNothingIsAnError(t *testing.T) {
	auth := &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "a"})}
	auth.Base = roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil })
	if _, _, err := get(t, auth); err == nil || !strings.Contains(err.Error(), "Auth.Base") {
		t.Errorf("got %v, want an error that names Auth.Base", err)
	}
}

func TestAnAuthorizationInLowerCaseIsTheCallersToo(t *testing.T) {
	auth := &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "a"})}
	auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
		if got := req.Header["Authorization"]; got != nil {
			t.Errorf("got %q beside the caller's own", got)
		}
		return httptest.NewRecorder().Result(), nil
	})
	req := post(t.Context(), nil)
	req.Header["authorization"] = []string{"Basic own"}
	auth.RoundTrip(req)
}

func TestATokenOfALateAnswerDoesNotUndoALogout(t *testing.T) {
	cache := &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: "a", RefreshToken: "r"})}
	auth := &transport.Auth{Source: cache, Base: roundTripper(func(*http.Request) (*http.Response, error) {
		cache.Forget(t.Context())
		return httptest.NewRecorder().Result(), nil
	})}
	auth.NewToken = func(*http.Response) *tokensource.Token { return &tokensource.Token{AccessToken: "b"} }
	get(t, auth)
	if tok, err := cache.Token(t.Context(), nil); err == nil {
		t.Errorf("got %v after the logout, want ErrReauthenticate", tok)
	}
}
