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

func TestReplaceIsToldToASourceThatHasOnlySet(t *testing.T) {
	var told []string
	l := &teller{source: numbered(0, 0), set: func(t *Token) error { told = append(told, t.AccessToken); return errAway }}
	c := &tokensource.Cache{Source: l}
	first, second := &Token{AccessToken: "first"}, &Token{AccessToken: "second"}
	c.Set(t.Context(), first)
	if err := c.Replace(t.Context(), first, second); err != errAway {
		t.Errorf("got %v, want the source's error", err)
	}
	if err := c.Replace(t.Context(), first, &Token{AccessToken: "late"}); err != nil {
		t.Errorf("late: got %v, want none", err)
	}
	if got := fmt.Sprint(told); got != "[first second]" {
		t.Errorf("told of %s, want of first and second", got)
	}
}

func TestReplaceDoesNotVoidALateToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: late(), Timeout: time.Second}
		first := &Token{AccessToken: "first"}
		c.Set(t.Context(), first)
		c.Token(t.Context(), first)
		if err := c.Replace(t.Context(), first, &Token{AccessToken: "of-an-answer"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "late")
	})
}

func TestReplaceKeepsARefreshTokenThatCameAlong(t *testing.T) {
	var given *Token
	c := &tokensource.Cache{Source: tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
		given = old
		return &Token{AccessToken: "third"}, nil
	})}
	first, second := &Token{AccessToken: "first", RefreshToken: "r1"}, &Token{AccessToken: "second", RefreshToken: "r2"}
	c.Set(t.Context(), first)
	c.Replace(t.Context(), first, second)
	c.Token(t.Context(), second)
	if given == nil || given.RefreshToken != "r2" {
		t.Errorf("the source was given %v, want r2", given)
	}
}

func TestReplaceTakesTheTokenOfAnAnswerToTheCurrentOne(t *testing.T) {
	k := &keeper{source: numbered(0, 0)}
	c := &tokensource.Cache{Source: k}
	first, _ := c.Token(t.Context(), nil)
	if err := c.Replace(t.Context(), first, &Token{AccessToken: "next"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Token(t.Context(), nil)
	wantToken(t, got, err, "next")
	if got.RefreshToken != "refresh-1" || k.set != got {
		t.Errorf("kept the refresh token %q and passed down %v, want refresh-1 and the same token", got.RefreshToken, k.set)
	}
}

func TestReplaceDoesNothingIfTheTokenIsNoLongerCurrent(t *testing.T) {
	c := &tokensource.Cache{Source: numbered(0, 0)}
	first, _ := c.Token(t.Context(), nil)
	c.Token(t.Context(), first)
	if err := c.Replace(t.Context(), first, &Token{AccessToken: "stale"}); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	got, err := c.Token(t.Context(), nil)
	wantToken(t, got, err, "token-2")
	c.Forget(t.Context())
	c.Replace(t.Context(), got, &Token{AccessToken: "stale"})
	if _, err := c.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("after Forget: got %v, want ErrReauthenticate", err)
	}
	for _, pair := range [][2]*Token{{nil, got}, {got, nil}, {got, {}}} {
		if err := c.Replace(t.Context(), pair[0], pair[1]); err == nil {
			t.Errorf("Replace of %v by %v gave no error", pair[0], pair[1])
		}
	}
}

func TestReplaceDoesNotVoidARefreshInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(900*time.Millisecond, 0)
		c := &tokensource.Cache{Source: s}
		first, _ := c.Token(t.Context(), nil)
		go c.Token(t.Context(), first)
		synctest.Wait()
		c.Replace(t.Context(), first, &Token{AccessToken: "from-an-answer"})
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-2")
	})
}

// Those who wait are many, and awake before the goroutine that wakes them goes on.
func TestWhoeverHasTheNextTokenIsNeverServedTheRefusedOne(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
				if n == 1 {
					return nil, errors.New("away")
				}
				time.Sleep(time.Second)
				return &Token{AccessToken: "next"}, nil
			}}
			c := &tokensource.Cache{Source: s}
			refused := &Token{AccessToken: "refused"}
			c.Set(t.Context(), refused)
			c.Token(t.Context(), refused) // fails, and so the next refusal makes nobody else wait
			time.Sleep(time.Second)
			for _, err := range all(1000, func(int) error {
				if _, err := c.Token(t.Context(), refused); err != nil {
					return err
				}
				if again, err := c.Token(t.Context(), nil); err != nil || again.AccessToken != "next" {
					return fmt.Errorf("got %v, %v after the next token, want that", again, err)
				}
				return nil
			}) {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
