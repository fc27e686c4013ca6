package transport_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A new token that its first origin accepts may be revoked before a second sees it.
func TestANewTokenThatIsRevokedAtOnceIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: s}
		for _, host := range []string{"a", "a", "b", "c"} {
			if got := asks(t, auth, "https://"+host+".example/"); got != 200 {
				t.Errorf("%s: got status %d, want a refresh and 200", host, got)
			}
			s.revoke()
		}
	})
}

// The tokens of logins say nothing of an origin: beside a row elsewhere each has to be 2 s old, and no more.
func TestLoginsThatAreRefusedBesideARowBeginNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		cache := &tokensource.Cache{Source: s.issuer}
		auth := &transport.Auth{Source: cache, Base: s}
		asks(t, auth, "https://bad.example/")
		for i := range 5 {
			cache.Set(t.Context(), &tokensource.Token{AccessToken: fmt.Sprint("login-", i)})
			if got := asks(t, auth, "https://api.example/"); got != 401 {
				t.Errorf("got status %d for a login that is no good, want 401 and no refresh", got)
			}
		}
		next, _ := s.Token(t.Context(), nil)
		cache.Set(t.Context(), next)
		asks(t, auth, "https://api.example/")
		s.revoke()
		time.Sleep(3 * time.Second)
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d after a revocation, want a refresh and 200", got)
		}
	})
}

func TestASecondAttemptMayTakeLongerThanATrial(t *testing.T) {
	for _, status := range []int{401, 503} {
		synctest.Test(t, func(t *testing.T) {
			auth := &transport.Auth{Source: &tokensource.Cache{Source: new(issuer)}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer token-1" {
					return bodyAnswer(401, http.NoBody), nil
				}
				time.Sleep(time.Minute)
				return bodyAnswer(status, http.NoBody), nil
			})}
			for range 3 {
				if got := asks(t, auth, "https://api.example/"); got != status {
					t.Errorf("got status %d, want %d", got, status)
				}
			}
		})
	}
}

// However the token came, and whatever is still on its way with the one before.
func TestATokenThatWasInUseForMinutesIsReplacedAtOnce(t *testing.T) {
	for how, second := range map[string]func(*testing.T, *issuer, *tokensource.Cache, *transport.Auth){
		"by a refusal": func(t *testing.T, tokens *issuer, _ *tokensource.Cache, auth *transport.Auth) {
			tokens.revoke()
			ok(t, auth)
		},
		"by a login": func(t *testing.T, tokens *issuer, cache *tokensource.Cache, _ *transport.Auth) {
			tokens.revoke()
			next, _ := tokens.Token(t.Context(), nil)
			cache.Set(t.Context(), next)
		},
	} {
		for _, peeks := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				tokens := new(issuer)
				cache := &tokensource.Cache{Source: tokens}
				source := map[bool]tokensource.Source{true: cache, false: tokensource.Func(cache.Token)}[peeks]
				base := &gated{&api{likes: tokens.good}, make(chan struct{})}
				auth := &transport.Auth{Source: source, Base: base}
				ok(t, auth)
				status := make(chan int, 1)
				go func() { status <- asks(t, auth, "https://api.example.com/slow") }()
				synctest.Wait()
				second(t, tokens, cache, auth)
				for range 10 {
					time.Sleep(time.Minute)
					if err := ok(t, auth); err != nil {
						t.Errorf("%s, Peek %t: %v", how, peeks, err)
					}
				}
				tokens.revoke()
				base.gate <- struct{}{} // the refusal of token-1
				synctest.Wait()
				base.gate <- struct{}{} // and of token-2, which was there already
				if got := <-status; got != 401 {
					t.Errorf("%s, Peek %t: the held request got status %d, want 401 after two attempts", how, peeks, got)
				}
				if err := ok(t, auth); err != nil {
					t.Errorf("%s, Peek %t: the next request got %v, want a refresh and 200", how, peeks, err)
				}
			})
		}
	}
}

// A Source with no Peek, which hands the refused token out again, and perhaps the one after it.
func TestASourceThatRepeatsItsTokensIsGuardedToo(t *testing.T) {
	for _, others := range []int32{1, 6000} {
		synctest.Test(t, func(t *testing.T) {
			var refreshes atomic.Int32
			source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				if old == nil {
					return &tokensource.Token{AccessToken: "first"}, nil
				}
				return &tokensource.Token{AccessToken: fmt.Sprint("next-", refreshes.Add(1)%others)}, nil
			})
			auth := &transport.Auth{Source: source, Base: &api{likes: refuseAll}}
			for range 6000 {
				get(t, auth)
				time.Sleep(100 * time.Millisecond)
			}
			if got := refreshes.Load(); got > 10 {
				t.Errorf("%d other tokens: %d refreshes in 10 minutes, want at most 10", others, got)
			}
		})
	}
}

// The first answer to a token that came by no refusal says nothing, for a login may be revoked at once.
func TestATokenThatNoRefusalCausedBeginsNoRow(t *testing.T) {
	for _, status := range []int{401, 503} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{issuer: new(issuer)}
			cache := &tokensource.Cache{Source: s.issuer}
			answers := []int{401, 200, 401, status} // the first two to a refusal that is cured: so the guard watches
			auth := &transport.Auth{Source: cache, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if len(answers) == 0 {
					return s.RoundTrip(req)
				}
				if len(answers) == 2 { // a login, while the request is on its way
					next, _ := s.Token(req.Context(), nil)
					cache.Set(req.Context(), next)
				}
				answer := answers[0]
				answers = answers[1:]
				return bodyAnswer(answer, http.NoBody), nil
			})}
			asks(t, auth, "https://api.example/")
			if got := asks(t, auth, "https://api.example/new"); got != status {
				t.Fatalf("got status %d, want that of the second attempt, %d", got, status)
			}
			s.revoke()
			if got := asks(t, auth, "https://api.example/new"); got != 200 {
				t.Errorf("after a %d and a revocation: got status %d, want a refresh and 200", status, got)
			}
		})
	}
}

func TestANewTokenIsGoodOnceItIsAcceptedAnywhereThoughItsFirstAnswerWasAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		broken := true
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if resp.StatusCode == 200 && req.URL.Path == "/broken" && broken {
				resp.StatusCode = 503
			}
			return resp, err
		})}
		s.dead.Store(1)
		if got := asks(t, auth, "https://api.example/broken"); got != 503 {
			t.Fatalf("got status %d, want 503 with token-2", got)
		}
		asks(t, auth, "https://api.example/")
		s.revoke()
		broken = false
		if got := asks(t, auth, "https://api.example/broken"); got != 200 {
			t.Errorf("after a revocation: got status %d, want a refresh and 200", got)
		}
	})
}

// Each login brings a token that is young, and that the API refuses, too.
func TestLoginsDuringARowCauseNoRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		cache := &tokensource.Cache{Source: tokens}
		auth := &transport.Auth{Source: cache, Base: &api{likes: refuseAll}}
		get(t, auth)
		for i := range 10 {
			cache.Set(t.Context(), &tokensource.Token{AccessToken: fmt.Sprint("login-", i)})
			get(t, auth)
		}
		if got := tokens.issued.Load(); got != 2 {
			t.Errorf("%d token requests, want 2: the logins' tokens are too young", got)
		}
	})
}

// expiring gives tokens that expire after a second, which a request for /slow takes, once.
func expiring(s *servers) (auth *transport.Auth) {
	var slow sync.Once
	return &transport.Auth{
		Source: &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			token, err := s.Token(ctx, old)
			token.Expiry = time.Now().Add(time.Second)
			return token, err
		})},
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/slow" {
				slow.Do(func() { time.Sleep(time.Second) })
				s.revoke()
			}
			return s.RoundTrip(req)
		}),
	}
}

// A token that expires while a request is on its way is due anyway, whatever the guard would say of its refusal.
func TestATokenThatExpiresOnItsWayIsReplacedBesideARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := expiring(s)
		asks(t, auth, "https://bad.example/")
		before := s.issued.Load()
		asks(t, auth, "https://api.example/slow")
		if got := s.issued.Load() - before; got != 1 {
			t.Errorf("%d refreshes for a token that has expired, want 1", got)
		}
	})
}

func TestTheTokenAfterOneThatExpiredOnItsWayBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := expiring(s)
		if got := asks(t, auth, "https://api.example/slow"); got != 401 {
			t.Fatalf("got status %d, want the refusal of the second token", got)
		}
		if got := asks(t, auth, "https://api.example/"); got != 200 {
			t.Errorf("got status %d, want a refresh at once and 200", got)
		}
	})
}

// Two callers that were refused together get one token, but not at one moment.
func TestATokenThatComesToASecondCallerLaterIsNoYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, refreshed atomic.Int32
		source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			asked.Add(1)
			if old == nil && refreshed.Load() == 0 {
				return &tokensource.Token{AccessToken: "first"}, nil
			}
			switch refreshed.Add(1) {
			case 1:
				time.Sleep(10 * time.Millisecond)
			case 2:
				time.Sleep(time.Second)
			}
			return &tokensource.Token{AccessToken: "second"}, nil
		})
		auth := &transport.Auth{Source: source, Base: &api{likes: refuseAll, delay: 5 * time.Millisecond}}
		all(2, func() error { return ok(t, auth) })
		time.Sleep(1100 * time.Millisecond)
		before := asked.Load()
		get(t, auth)
		if got := asked.Load() - before; got != 2 {
			t.Errorf("the Source was asked %d times for a request, want twice: the second token came 2.1 s ago", got)
		}
	})
}

// A new token is revoked while the request that caused it is on its way again, and after others had it accepted.
func TestANewTokenThatOthersHadAcceptedBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}}
		second := false
		auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			if !second && s.good(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")) {
				second = true
				if got := asks(t, auth, "https://api.example/"); got != 200 {
					t.Errorf("another request got status %d, want 200", got)
				}
				s.revoke()
			}
			return s.RoundTrip(req)
		})
		s.dead.Store(1)
		if got := asks(t, auth, "https://api.example/"); got != 401 {
			t.Fatalf("got status %d, want the refusal of the second attempt", got)
		}
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d, want a refresh and 200", got)
		}
	})
}

// After 2 s without a row an error that followed a refresh is forgotten.
func TestAnErrorAfterANewTokenIsHeldAgainstItForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		broken := true
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(req)
			if broken && resp.StatusCode == 200 {
				resp.StatusCode = 503
			}
			return resp, err
		})}
		s.dead.Store(1)
		asks(t, auth, "https://api.example/")
		broken = false
		time.Sleep(5 * time.Second)
		for _, path := range []string{"/", "/other"} {
			s.revoke()
			if got := asks(t, auth, "https://api.example"+path); got != 200 {
				t.Errorf("%s: got status %d, want a refresh and 200", path, got)
			}
		}
		s.dead.Store(1 << 20)
		before := s.issued.Load()
		for range 100 {
			asks(t, auth, "https://api.example/")
		}
		if got := s.issued.Load() - before; got > 2 {
			t.Errorf("%d token requests for what is refused then, want at most 2", got)
		}
	})
}
