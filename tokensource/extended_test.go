package tokensource_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Sources that return the token that they have returned before.

// extending gives the same token, which lives on from each call, as Vault's renew-self does.
func extending(life time.Duration, alive *time.Time) *source {
	return &source{answer: func(context.Context, int, *Token) (*Token, error) {
		if now := time.Now(); !alive.IsZero() && now.After(*alive) {
			return nil, fmt.Errorf("%w: the session is over", tokensource.ErrReauthenticate)
		}
		*alive = time.Now().Add(life)
		return &Token{AccessToken: "session", Expiry: *alive}, nil
	}}
}

func TestATokenThatItsSourceExtendsLivesOn(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var alive time.Time
			s := extending(life, &alive)
			var early atomic.Int32
			c := &tokensource.Cache{Source: s, OnRefresh: func(r tokensource.Refresh) {
				if r.Cause == tokensource.Early {
					early.Add(1)
				}
			}}
			for start := time.Now(); time.Since(start) < 60*life; time.Sleep(life / 1000) {
				got, err := c.Token(t.Context(), nil)
				if wantToken(t, got, err, "session"); err != nil {
					t.FailNow()
				}
			}
			if got := s.calls.Load(); got != early.Load()+1 || got > 60*100/55+1 {
				t.Errorf("a life of %v: %d calls of the Source with %d early refreshes, want one for each, and the first", life, got, early.Load())
			}
		})
	}
}

func TestAnExtendedTokenThatWasRefusedIsSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alive time.Time
		s := extending(time.Hour, &alive)
		c := &tokensource.Cache{Source: s}
		session, _ := c.Token(t.Context(), nil)
		for range 1000 { // ten seconds
			got, err := c.Token(t.Context(), session)
			wantToken(t, got, err, "session")
			time.Sleep(10 * time.Millisecond)
		}
		if got := s.calls.Load(); got > 22 {
			t.Errorf("asked %d times in 10s, want at most 22", got)
		}
	})
}

// A Source that rounds, or reckons anew, extends nothing.
func TestAnExpiryThatWaversIsNoExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Hour)
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			return &Token{AccessToken: "same", Expiry: end.Add(time.Duration(n) * 10 * time.Millisecond)}, nil
		}}
		c := &tokensource.Cache{Source: s}
		for range 3590 {
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "same")
			time.Sleep(time.Second)
		}
		if got := s.calls.Load(); got > 60 {
			t.Errorf("asked %d times in an hour, want at most 60", got)
		}
	})
}

func TestAGoodTokenThatTheSourceConfirmedIsAskedForAgainAtItsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Hour)
		s := &source{}
		s.answer = func(_ context.Context, n int, _ *Token) (*Token, error) {
			if time.Now().Before(end) {
				return &Token{AccessToken: "same", Expiry: end}, nil
			}
			return &Token{AccessToken: "next"}, nil
		}
		c := &tokensource.Cache{Source: s}
		for range 3600 {
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "same")
			time.Sleep(time.Second)
		}
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "next")
	})
}

func jwtOf(issued time.Time, life time.Duration) string {
	return unsignedJWT(`{"alg":"RS256"}`, fmt.Sprintf(`{"iat":%d,"exp":%d}`, issued.Unix(), issued.Add(life).Unix()))
}

func TestAJWTThatComesBySetHasWhatItsExpLeaves(t *testing.T) {
	for age, left := range map[time.Duration]time.Duration{0: time.Hour, 50 * time.Minute: 10 * time.Minute, -7 * time.Hour: time.Hour, 2 * time.Hour: 0} {
		synctest.Test(t, func(t *testing.T) {
			s := failing(unavailable)
			c := &tokensource.Cache{Source: s, Patience: -1}
			c.Set(t.Context(), &Token{AccessToken: jwtOf(time.Now().Add(-age), time.Hour)})
			time.Sleep(max(0, left-time.Second))
			if got := c.Peek(t.Context(), nil) != nil; got != (left > 0) {
				t.Errorf("issued %v ago, a second before its end: good %t, want %t", age, got, left > 0)
			}
			time.Sleep(time.Second)
			if got := c.Peek(t.Context(), nil); got != nil {
				t.Errorf("issued %v ago, at its end: got %v, want none", age, got)
			}
		})
	}
}

func TestAJWTWithoutIssuedAtThatComesBySetLivesUntilItsExp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing(unavailable)}
		exp := time.Now().Add(10 * time.Minute)
		c.Set(t.Context(), &Token{AccessToken: unsignedJWT(`{"alg":"RS256"}`, fmt.Sprintf(`{"exp":%d}`, exp.Unix()))})
		for _, want := range []bool{true, false} {
			if got := c.Peek(t.Context(), nil) != nil; got != want {
				t.Errorf("%v before its exp: good %t, want %t", time.Until(exp), got, want)
			}
			time.Sleep(10 * time.Minute)
		}
	})
}

func TestTheSameJWTDoesNotLiveAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := &Token{AccessToken: jwtOf(time.Now(), time.Hour)}
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return token, nil }}
		c := &tokensource.Cache{Source: s}
		for start := time.Now(); time.Since(start) < time.Hour; time.Sleep(time.Second) {
			c.Token(t.Context(), nil)
		}
		if got := c.Peek(t.Context(), nil); got != nil && got.Expiry.After(time.Now()) {
			t.Errorf("after its hour it expires at %v, want that it has", got.Expiry)
		}
	})
}

// A Keyed has dropped the Cache, and the API refuses the token that the store has.
func TestAColdCacheHandsBackNoTokenThatWasJustRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, time.Hour)
		store := new(storetest.Memory)
		first, err := newProcess(store, s).Token(t.Context(), nil)
		wantToken(t, first, err, "token-1")
		got, err := newProcess(store, s).Token(t.Context(), first)
		wantToken(t, got, err, "token-2")
		wantCalls(t, s, 2)
	})
}

// A caller waits for a newer token than the one that another's server refused, and
// gets the very one that it came with.
func TestACallerIsNotHandedTheTokenThatItCameWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(100 * time.Millisecond)
			return &Token{AccessToken: map[int]string{1: "a", 2: "c"}[n]}, nil
		}}
		c := &tokensource.Cache{Source: s}
		a, b := &Token{AccessToken: "a"}, &Token{AccessToken: "b"}
		c.Set(t.Context(), b)
		go c.Token(t.Context(), b)
		synctest.Wait()
		got, err := c.Token(t.Context(), a)
		wantToken(t, got, err, "c")
	})
}

func TestPeekReturnsAnExpiredTokenThatIsTheOnlyOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := &Token{AccessToken: "only", Expiry: time.Now().Add(-time.Hour)}
		c := &tokensource.Cache{Source: tokensource.Static(only)}
		c.Token(t.Context(), nil)
		wantToken(t, c.Peek(t.Context(), nil), nil, "only")
		if got := c.Peek(t.Context(), only); got != nil {
			t.Errorf("got %v for a caller that has it, want nil", got)
		}
		time.Sleep(time.Second)
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v when the Source is to be asked again, want nil", got)
		}
	})
}

func TestAJWTThatIsSetInAStoredHasWhatItsExpLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		p := newProcess(store, failing(unavailable))
		p.stored.Set(t.Context(), &Token{AccessToken: jwtOf(time.Now().Add(-50*time.Minute), time.Hour)})
		time.Sleep(10*time.Minute - time.Second)
		if _, err := p.stored.Token(t.Context(), nil); err != nil {
			t.Errorf("a second before its end: %v", err)
		}
		time.Sleep(time.Second)
		if got, err := p.stored.Token(t.Context(), nil); err != unavailable {
			t.Errorf("at its end: got %v, %v, want the 503", got, err)
		}
	})
}

func TestTheSameJWTEndsWhenItWould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := &Token{AccessToken: jwtOf(time.Now(), time.Hour)}
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return only, nil }}
		c := &tokensource.Cache{Source: s}
		c.Token(t.Context(), nil)
		c.Token(t.Context(), only) // is confirmed
		time.Sleep(time.Hour)
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v after an hour, want none", got)
		}
	})
}

func TestTheExpiryOfALoginWinsOverItsJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing(unavailable)}
		c.Set(t.Context(), &Token{AccessToken: jwtOf(time.Now(), time.Hour), Expiry: time.Now().Add(10 * time.Minute)})
		time.Sleep(10 * time.Minute)
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v after 10 minutes, want none", got)
		}
	})
}
