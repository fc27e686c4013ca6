package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestATokenThatExpiresDuringItsEarlyRefreshIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			if n > 1 {
				time.Sleep(time.Minute)
			}
			now := time.Now()
			return &Token{AccessToken: fmt.Sprintf("token-%d", n), Expiry: now.Add(10 * time.Second), RefreshAt: now.Add(5 * time.Second)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Hour}
		c.Token(t.Context(), nil)
		time.Sleep(6 * time.Second)
		got, err := c.Token(t.Context(), nil) // starts it
		wantToken(t, got, err, "token-1")
		time.Sleep(5 * time.Second)
		got, err = c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-2")
	})
}

func TestNoEarlyRefreshFollowsTheNewsThatALoginIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			if n > 1 {
				return nil, tokensource.ErrReauthenticate
			}
			return &Token{AccessToken: "token-1", Expiry: time.Now().Add(time.Hour), RefreshAt: time.Now().Add(time.Second)}, nil
		}}
		c := &tokensource.Cache{Source: s}
		for range 10 {
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "token-1")
			time.Sleep(time.Minute)
		}
		wantCalls(t, s, 2)
	})
}

// Callers find that the moment has come, and get the lock when the refresh is
// over already.
func TestManyCallersAtTheMomentOfAnEarlyRefreshCauseOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			s := numbered(0, time.Hour)
			c := &tokensource.Cache{Source: s}
			c.Set(t.Context(), &Token{AccessToken: "good", Expiry: time.Now().Add(100 * time.Second)})
			time.Sleep(91 * time.Second)
			all(100, func(int) error { return second(c.Token(t.Context(), nil)) })
			synctest.Wait()
			wantCalls(t, s, 1)
		}
	})
}

func TestNobodyWaitsForAnEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(5*time.Second, 0)
		c := &tokensource.Cache{Source: s}
		c.Set(t.Context(), &Token{AccessToken: "good", Expiry: time.Now().Add(100 * time.Second)})
		time.Sleep(91 * time.Second)
		start := time.Now()
		for range 100 {
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "good")
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v, want 0", waited)
		}
		time.Sleep(6 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		wantCalls(t, s, 1)
	})
}

func TestRefreshAtIsTheMomentOfTheEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, time.Hour)
		c := &tokensource.Cache{Source: s}
		now := time.Now()
		c.Set(t.Context(), &Token{AccessToken: "good", Expiry: now.Add(time.Hour), RefreshAt: now.Add(time.Minute)})
		time.Sleep(time.Minute - time.Nanosecond)
		c.Token(t.Context(), nil)
		wantCalls(t, s, 0)
		time.Sleep(time.Nanosecond)
		c.Token(t.Context(), nil)
		synctest.Wait()
		wantCalls(t, s, 1)
	})
}

func TestAThousandCachesSpreadTheirEarlyRefreshesOverTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tenths [10]int
		for range 1000 {
			s := numbered(0, time.Hour)
			c := &tokensource.Cache{Source: s}
			start := time.Now()
			c.OnRefresh = func(r tokensource.Refresh) {
				if r.Cause == tokensource.Early {
					share := time.Since(start).Seconds() / 3600
					tenths[int((share-0.55)/0.035)]++ // out of range: outside the window
				}
			}
			c.Token(t.Context(), nil)
			for s.calls.Load() < 2 {
				time.Sleep(time.Second)
				c.Token(t.Context(), nil)
				synctest.Wait()
			}
		}
		for i, n := range tenths {
			if n < 50 || n > 170 {
				t.Errorf("tenth %d of the window has %d of 1000 refreshes, want 50 to 170", i, n)
			}
		}
	})
}

func TestATokenWhoseReplacementFailedIsServedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, 0)
		c := &tokensource.Cache{Source: s}
		first, _ := c.Token(t.Context(), nil)
		s.answer = func(context.Context, int, *Token) (*Token, error) {
			time.Sleep(time.Second)
			return nil, unavailable
		}
		refused := make(chan error)
		go func() { _, err := c.Token(t.Context(), first); refused <- err }()
		synctest.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		if err := <-refused; !errors.Is(err, unavailable) {
			t.Errorf("the refused caller got %v, want the 503", err)
		}
		time.Sleep(time.Second)
		go c.Token(t.Context(), first)
		synctest.Wait()
		start := time.Now()
		got, err = c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("after a failure, waited %v for the next refresh, want 0", waited)
		}
		time.Sleep(time.Second)
	})
}
