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

func TestOnRefreshIsToldOfEveryRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan tokensource.Refresh, 10)
		s := numbered(time.Second, 100*time.Second)
		c := &tokensource.Cache{Source: s, Patience: -1, OnRefresh: func(r tokensource.Refresh) { events <- r }}
		want := func(cause tokensource.Cause, waiters int, err error) {
			t.Helper()
			got := <-events
			if got != (tokensource.Refresh{Cause: cause, Duration: time.Second, Waiters: waiters, Err: err}) {
				t.Errorf("got %+v, want %s with %d waiters, 1s, error %v", got, cause, waiters, err)
			}
		}
		all(7, func(int) error { _, err := c.Token(t.Context(), nil); return err })
		want(tokensource.Expired, 7, nil)
		time.Sleep(90 * time.Second)
		c.Token(t.Context(), nil)
		want(tokensource.Early, 0, nil)
		tok, _ := c.Token(t.Context(), nil)
		s.answer = func(context.Context, int, *Token) (*Token, error) { time.Sleep(time.Second); return nil, unavailable }
		c.Token(t.Context(), tok)
		want(tokensource.Refused, 1, unavailable)
		time.Sleep(100 * time.Second)
		c.Token(t.Context(), tok) // refused, but expired besides
		want(tokensource.Expired, 1, unavailable)
	})
}

func TestOnRefreshIsToldOfALateTokenButNotOfALateError(t *testing.T) {
	for late, want := range map[error]string{
		nil:         "[expired after 1s: true expired after 10s: false]",
		unavailable: "[expired after 1s: true]",
	} {
		synctest.Test(t, func(t *testing.T) {
			events := make(chan string, 3)
			c := &tokensource.Cache{Timeout: time.Second, Patience: -1}
			c.Source = tokensource.Func(func(context.Context, *Token) (*Token, error) {
				time.Sleep(10 * time.Second)
				return &Token{AccessToken: "late"}, late
			})
			c.OnRefresh = func(r tokensource.Refresh) {
				events <- fmt.Sprintf("%s after %v: %t", r.Cause, r.Duration, r.Err != nil)
			}
			c.Token(t.Context(), nil)
			time.Sleep(time.Minute)
			synctest.Wait()
			close(events)
			var got []string
			for e := range events {
				got = append(got, e)
			}
			if got := fmt.Sprint(got); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestOnRefreshMayLogInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing(tokensource.ErrReauthenticate)}
		c.OnRefresh = func(r tokensource.Refresh) {
			if errors.Is(r.Err, tokensource.ErrReauthenticate) {
				c.Set(t.Context(), &Token{AccessToken: "after-login"})
			}
		}
		c.Token(t.Context(), nil)
		synctest.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "after-login")
	})
}
