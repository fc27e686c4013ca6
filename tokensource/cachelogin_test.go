package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestATokenSentAlongWithAnAnswerRevivesNoDeadRefreshToken(t *testing.T) {
	for refresh, calls := range map[string]int32{"": 1, "own": 2} {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return nil, tokensource.ErrReauthenticate }}
			c := &tokensource.Cache{Source: s}
			old := &Token{AccessToken: "old", RefreshToken: "dead"}
			c.Set(t.Context(), old)
			c.Token(t.Context(), old)
			c.Replace(t.Context(), old, &Token{AccessToken: "next", RefreshToken: refresh, Expiry: time.Now().Add(time.Minute)})
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "next")
			time.Sleep(time.Hour)
			if _, err := c.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want ErrReauthenticate", err)
			}
			wantCalls(t, s, calls)
		})
	}
}

func TestALoginAtTheMomentOfARefreshServesItsCallers(t *testing.T) {
	for range 1000 {
		c := &tokensource.Cache{Source: numbered(0, 0)}
		var set sync.WaitGroup
		set.Go(func() { c.Set(t.Context(), &Token{AccessToken: "login"}) })
		if _, err := c.Token(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		set.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
	}
}

func TestReauthenticateIsFinalUntilSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := failing(fmt.Errorf("%w: expired", tokensource.ErrReauthenticate))
		c := &tokensource.Cache{Source: s}
		for range 100 {
			for _, err := range all(10, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
				if !errors.Is(err, tokensource.ErrReauthenticate) {
					t.Errorf("got %v, want ErrReauthenticate", err)
				}
			}
			time.Sleep(time.Hour)
		}
		wantCalls(t, s, 1)
		c.Set(t.Context(), &Token{AccessToken: "after-login"})
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "after-login")
	})
}

// keeper is a Source that is told of logins, as a stored one is.
type keeper struct {
	*source
	set     *Token
	forgets int
}

func (k *keeper) Set(_ context.Context, t *Token) error { k.set = t; return nil }
func (k *keeper) Forget(context.Context) error          { k.forgets++; return errors.New("store is down") }

func TestReauthenticateIsSpacedOverASourceThatIsToldOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{source: failing(tokensource.ErrReauthenticate)}
		c := &tokensource.Cache{Source: k}
		for range 10 {
			c.Token(t.Context(), nil)
		}
		wantCalls(t, k.source, 1)
		time.Sleep(time.Second)
		k.answer = numbered(0, 0).answer
		if _, err := c.Token(t.Context(), nil); err != nil {
			t.Errorf("after another process logged in: %v", err)
		}
	})
}

func TestSetAndForgetArePassedDown(t *testing.T) {
	k := &keeper{source: numbered(0, 0)}
	c := &tokensource.Cache{Source: k}
	if err := c.Set(t.Context(), &Token{AccessToken: "a"}); err != nil || k.set.AccessToken != "a" {
		t.Errorf("Set: error %v, passed %v", err, k.set)
	}
	if err := c.Forget(t.Context()); err == nil || k.forgets != 1 {
		t.Errorf("Forget: error %v after %d calls, want the source's error after 1", err, k.forgets)
	}
}

// A teller is a Source that is told of logins and logouts, and answers in its own way.
type teller struct {
	*source
	set    func(*Token) error
	forget func() error
}

func (l *teller) Set(_ context.Context, t *Token) error { return l.set(t) }
func (l *teller) Forget(context.Context) error          { return l.forget() }

func TestASourceIsAskedSoonOnlyAfterALoginThatItDidNotTake(t *testing.T) {
	for err, calls := range map[error]int32{nil: 0, errAway: 1} {
		synctest.Test(t, func(t *testing.T) {
			l := &teller{source: numbered(0, 0), set: func(*Token) error { return err }}
			c := &tokensource.Cache{Source: l}
			if got := c.Set(t.Context(), &Token{AccessToken: "login"}); got != err {
				t.Errorf("Set: got %v, want %v", got, err)
			}
			time.Sleep(time.Second)
			c.Token(t.Context(), nil)
			synctest.Wait()
			wantCalls(t, l.source, calls)
		})
	}
}

func TestALoginThatTheSourceDidNotTakeDoesNotConcernTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &teller{source: numbered(0, 0)}
		l.set = func(t *Token) error {
			if t.AccessToken == "second" {
				return nil
			}
			time.Sleep(time.Second)
			return errAway
		}
		c := &tokensource.Cache{Source: l}
		time.AfterFunc(500*time.Millisecond, func() { c.Set(t.Context(), &Token{AccessToken: "second"}) })
		c.Set(t.Context(), &Token{AccessToken: "first"})
		time.Sleep(10 * time.Second)
		got, err := c.Token(t.Context(), nil)
		synctest.Wait()
		wantToken(t, got, err, "second")
		wantCalls(t, l.source, 0)
	})
}

func TestAfterALogoutTheSourceAnswersOnceItWasTold(t *testing.T) {
	for err, calls := range map[error]int32{nil: 1, errAway: 0} {
		l := &teller{source: numbered(0, 0), forget: func() error { return err }}
		c := &tokensource.Cache{Source: l}
		if got := c.Forget(t.Context()); got != err {
			t.Errorf("Forget: got %v, want %v", got, err)
		}
		if _, got := c.Token(t.Context(), nil); errors.Is(got, tokensource.ErrReauthenticate) != (err != nil) {
			t.Errorf("after %v: got %v", err, got)
		}
		wantCalls(t, l.source, calls)
	}
}

func TestAnEarlierLogoutThatTheSourceWasToldLateDoesNotEndALaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logouts atomic.Int32
		l := &teller{source: numbered(0, 0)}
		l.forget = func() error {
			if logouts.Add(1) == 2 {
				return errAway
			}
			time.Sleep(time.Second)
			return nil
		}
		c := &tokensource.Cache{Source: l}
		time.AfterFunc(500*time.Millisecond, func() { c.Forget(t.Context()) })
		c.Forget(t.Context())
		if got, err := c.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v and %v, want ErrReauthenticate", got, err)
		}
	})
}

func TestSetWinsOverARefreshInFlightAndItsWaitersReturnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Minute, 0)
		c := &tokensource.Cache{Source: s, Timeout: time.Hour}
		start := time.Now()
		time.AfterFunc(time.Second, func() { c.Set(t.Context(), &Token{AccessToken: "set"}) })
		all(100, func(int) error {
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "set")
			return nil
		})
		if got := time.Since(start); got != time.Second {
			t.Errorf("waiters returned after %v, want 1s", got)
		}
		time.Sleep(time.Hour)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "set")
	})
}

func TestALateTokenOfBeforeASetIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(time.Minute) // deaf to its context
			return &Token{AccessToken: fmt.Sprintf("token-%d", n)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Hour}
		go c.Token(t.Context(), nil)
		time.Sleep(time.Second)
		set := &Token{AccessToken: "set"}
		c.Set(t.Context(), set)
		got, err := c.Token(t.Context(), set)
		wantToken(t, got, err, "token-2")
		wantCalls(t, s, 2)
	})
}

func TestForgetWinsOverARefreshInFlightAndNoTokenRequestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Minute, 0)
		c := &tokensource.Cache{Source: s}
		start := time.Now()
		time.AfterFunc(time.Second, func() { c.Forget(t.Context()) })
		for _, err := range all(100, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
			if !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want ErrReauthenticate", err)
			}
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("waiters returned after %v, want 1s", got)
		}
		time.Sleep(time.Hour)
		if _, err := c.Token(t.Context(), &Token{AccessToken: "any"}); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("later: got %v, want ErrReauthenticate", err)
		}
		wantCalls(t, s, 1)
	})
}

func TestSetOfNothingIsAnError(t *testing.T) {
	c := &tokensource.Cache{Source: numbered(0, 0)}
	for _, token := range []*Token{nil, {}, {AccessToken: "a b"}} {
		if err := c.Set(t.Context(), token); err == nil {
			t.Errorf("Set(%v) gave no error", token)
		}
	}
}

func TestALoginThatBringsOnlyARefreshTokenIsExchangedAtTheNextCall(t *testing.T) {
	var given *Token
	s := &source{answer: func(_ context.Context, _ int, old *Token) (*Token, error) {
		given = old
		return &Token{AccessToken: "exchanged"}, nil
	}}
	c := &tokensource.Cache{Source: s}
	c.Set(t.Context(), &Token{RefreshToken: "r"})
	got, err := c.Token(t.Context(), nil)
	wantToken(t, got, err, "exchanged")
	if given == nil || given.RefreshToken != "r" {
		t.Errorf("the source was given %v, want the refresh token that was set", given)
	}
}

func TestTheInitialRefreshTokenIsNotSentAgain(t *testing.T) {
	r := &tokensource.RefreshToken{RefreshToken: "initial"}
	if _, err := r.Token(t.Context(), &Token{AccessToken: "a"}); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want ErrReauthenticate", err)
	}
}
