package tokensource_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// When a Cache asks its Source again.

// gaps asks once in a millisecond until the Source was called n times, and
// returns what lay between its calls.
func gaps(t *testing.T, c *tokensource.Cache, s *source, n int32) []time.Duration {
	t.Helper()
	return gapsBy(t, time.Millisecond, c, s, n)
}

func gapsBy(t *testing.T, step time.Duration, c *tokensource.Cache, s *source, n int32) (all []time.Duration) {
	t.Helper()
	last, calls := time.Now(), s.calls.Load()
	for end := calls + n; calls < end; time.Sleep(step) {
		c.Token(t.Context(), nil)
		synctest.Wait()
		if now := s.calls.Load(); now > calls {
			all, last, calls = append(all, time.Since(last)), time.Now(), now
		}
	}
	return all
}

// wantGaps fails unless each gap is six to ten tenths of a quarter of what lay
// before it, of 0.3 s at least and of 100 s at most.
func wantGaps(t *testing.T, gaps []time.Duration) {
	t.Helper()
	rested := time.Duration(0)
	for i, got := range gaps {
		most := min(max(300*time.Millisecond, rested/4), 100*time.Second)
		if got < most*59/100 || got > most+time.Millisecond {
			t.Errorf("after %d pauses of %v in all, asked again after %v, want %v to %v", i, rested, got, most*6/10, most)
		}
		rested += got
	}
}

func TestFailuresInARowAreSpacedMoreAndMore(t *testing.T) {
	for range 20 { // the waits are drawn
		synctest.Test(t, func(t *testing.T) {
			s := failing(unavailable)
			wantGaps(t, gaps(t, &tokensource.Cache{Source: s, Patience: -1}, s, 12)[1:])
		})
	}
}

// slowFailing fails after an attempt that takes so long.
func slowFailing(attempt time.Duration) *source {
	return &source{answer: func(ctx context.Context, _ int, _ *Token) (*Token, error) {
		return nil, cmp.Or[error](wait(ctx, attempt), unavailable)
	}}
}

func TestNoPauseIsLongerThanItsBound(t *testing.T) {
	for _, attempt := range []time.Duration{0, 20 * time.Second} { // the bound is for an attempt and its pause
		synctest.Test(t, func(t *testing.T) {
			s := slowFailing(attempt)
			for i, gap := range gapsBy(t, time.Second, &tokensource.Cache{Source: s, Patience: -1}, s, 60) {
				if gap > 101*time.Second || i > 50 && gap < 60*time.Second {
					t.Errorf("after %d failures that took %v asked again after %v, want 60s to 100s", i, attempt, gap)
				}
			}
		})
	}
}

func TestTheTimeOfAnAttemptCountsForThePauseAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowFailing(20 * time.Second)
		gap := gaps(t, &tokensource.Cache{Source: s, Patience: -1}, s, 2)[1]
		if gap < 23*time.Second || gap > 25*time.Second+time.Millisecond {
			t.Errorf("asked again after %v, want an attempt of 20s and a pause of 3s to 5s", gap)
		}
	})
}

func TestTheSpacingBeginsAnewAfterASuccessOrALogin(t *testing.T) {
	for name, heal := range map[string]func(*testing.T, *tokensource.Cache, *source){
		"success": func(t *testing.T, c *tokensource.Cache, s *source) {
			s.answer = numbered(0, time.Second).answer
			gaps(t, c, s, 1)
			time.Sleep(time.Second)
		},
		"login": func(t *testing.T, c *tokensource.Cache, _ *source) {
			c.Set(t.Context(), &Token{RefreshToken: "r"}) // is exchanged at once
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := failing(unavailable)
			c := &tokensource.Cache{Source: s, Patience: -1}
			gaps(t, c, s, 12)
			heal(t, c, s)
			s.answer = failing(unavailable).answer
			got := gaps(t, c, s, 2)
			if got[0] != 0 {
				t.Errorf("%s: asked after %v, want at once", name, got[0])
			}
			wantGaps(t, got[1:])
		})
	}
}

// A token that has expired already is served, for clocks may be wrong.
func TestASourceThatReturnsExpiredTokensIsNotAskedInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, -time.Hour)
		s.answer = func(_ context.Context, n int, _ *Token) (*Token, error) {
			return &Token{AccessToken: fmt.Sprint("token-", n), Expiry: time.Now().Add(-time.Hour)}, nil
		}
		c := &tokensource.Cache{Source: s}
		for range 10000 { // ten seconds
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, fmt.Sprint("token-", s.calls.Load()))
			time.Sleep(time.Millisecond)
		}
		if got := s.calls.Load(); got > 22 {
			t.Errorf("asked %d times in 10s, want at most 22", got)
		}
	})
}

func TestARefusedTokenThatTheSourceConfirmsAfterAFailureIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := failing(unavailable)
		c := &tokensource.Cache{Source: s, Patience: -1}
		only := &Token{AccessToken: "only"}
		c.Set(t.Context(), only)
		c.Token(t.Context(), only)
		time.Sleep(300 * time.Millisecond)
		s.answer = func(context.Context, int, *Token) (*Token, error) { return only, nil }
		for range 2 {
			got, err := c.Token(t.Context(), only)
			wantToken(t, got, err, "only")
		}
		wantCalls(t, s, 2)
	})
}

func TestNobodyWaitsForARefreshAfterOneThatBroughtNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := &Token{AccessToken: "only", Expiry: time.Now().Add(time.Hour)}
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return only, nil }}
		c := &tokensource.Cache{Source: s}
		c.Token(t.Context(), nil)
		time.Sleep(55 * time.Minute)
		c.Token(t.Context(), nil) // an early refresh
		synctest.Wait()
		time.Sleep(time.Second)
		s.answer = numbered(time.Second, 0).answer
		go c.Token(t.Context(), only)
		synctest.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "only")
		time.Sleep(time.Second)
		wantCalls(t, s, 3)
	})
}

// paced gives the same token, and says itself when to ask again.
func paced(pace, life time.Duration) *source {
	return &source{answer: func(context.Context, int, *Token) (*Token, error) {
		now := time.Now()
		return &Token{AccessToken: "same", RefreshAt: now.Add(pace), Expiry: now.Add(life)}, nil
	}}
}

func TestAnExpiredTokenOfASourceWithItsOwnPaceIsAskedForAtThatPaceOrSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := paced(time.Second, -time.Hour)
		for i, gap := range gaps(t, &tokensource.Cache{Source: s}, s, 30)[1:] {
			if i > 15 && gap != time.Second {
				t.Errorf("asked again after %v, want 1s", gap)
			}
		}
		s = paced(time.Hour, -time.Hour)
		wantGaps(t, gaps(t, &tokensource.Cache{Source: s}, s, 2)[1:])
	})
}

func TestTheSameTokenAtItsOwnPaceIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
			return &Token{AccessToken: "same", RefreshAt: time.Now().Add(time.Minute)}, nil
		}}
		c := &tokensource.Cache{Source: s}
		for i, gap := range gaps(t, c, s, 5)[1:] {
			if gap != time.Minute {
				t.Errorf("refresh %d came after %v, want 1m", i, gap)
			}
		}
		s.answer = numbered(900*time.Millisecond, time.Hour).answer
		go c.Token(t.Context(), &Token{AccessToken: "same"})
		synctest.Wait()
		got, err := c.Token(t.Context(), nil) // waits: only failures are not waited for
		wantToken(t, got, err, fmt.Sprint("token-", s.calls.Load()))
	})
}

func TestAGoodTokenThatTheSourceConfirmedIsServedOnWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return &Token{AccessToken: "only"}, nil }}
		c := &tokensource.Cache{Source: s}
		only, _ := c.Token(t.Context(), nil)
		c.Token(t.Context(), only)
		time.Sleep(time.Hour)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "only")
		synctest.Wait()
		wantCalls(t, s, 2)
	})
}

func TestATokenIsNotServedBeyondItsExpiryWhileTheSourceIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := failing(&tokensource.EndpointError{StatusCode: 503, RetryAfter: time.Minute})
		c := &tokensource.Cache{Source: s}
		now := time.Now()
		c.Set(t.Context(), &Token{AccessToken: "good", RefreshAt: now.Add(90 * time.Second), Expiry: now.Add(100 * time.Second)})
		time.Sleep(90 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "good")
		synctest.Wait()
		c.Token(t.Context(), nil)
		time.Sleep(10 * time.Second)
		if got, err := c.Token(t.Context(), nil); err == nil {
			t.Errorf("got %v, which has expired, want the 503", got)
		}
		wantCalls(t, s, 1)
	})
}

func TestARefusedLateTokenIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(map[int]time.Duration{1: 1050 * time.Millisecond}[n])
			return &Token{AccessToken: fmt.Sprint("token-", n)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second, Patience: -1}
		if _, err := c.Token(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		late, err := c.Token(t.Context(), nil)
		wantToken(t, late, err, "token-1")
		got, err := c.Token(t.Context(), late)
		wantToken(t, got, err, "token-2")
	})
}

func TestASourceWhoseErrorIsANilPointerIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing((*tokensource.EndpointError)(nil))}
		if got, err := c.Token(t.Context(), nil); got != nil || err == nil {
			t.Errorf("got %v, want an error", got)
		}
	})
}

func TestAnAbsurdRetryAfterKeepsAFleetApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shortest := time.Hour
		for range 50 {
			s := failing(&tokensource.EndpointError{StatusCode: 503, RetryAfter: time.Hour})
			shortest = min(shortest, gapsBy(t, time.Second, &tokensource.Cache{Source: s}, s, 2)[1])
		}
		if shortest < 4*time.Minute || shortest > 4*time.Minute+20*time.Second {
			t.Errorf("the shortest pause is %v, want little more than 4m", shortest)
		}
	})
}

func TestTheRememberedErrorComesAtOnceUntilTheSourceIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := failing(unavailable)
		c := &tokensource.Cache{Source: s, Patience: -1}
		c.Set(t.Context(), &Token{AccessToken: "expired", Expiry: time.Now().Add(-time.Hour)})
		for range 10 {
			if got, err := c.Token(t.Context(), nil); got != nil || err != unavailable {
				t.Errorf("got %v and %v, want the source's error", got, err)
			}
		}
		wantCalls(t, s, 1)
	})
}

func TestRetryAfterIsHonouredAndCapped(t *testing.T) {
	for _, test := range []struct{ after, least, most time.Duration }{
		{10 * time.Second, 10 * time.Second, 13 * time.Second},
		{1 << 62, 4 * time.Minute, 5 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := failing(&tokensource.EndpointError{StatusCode: 503, RetryAfter: test.after})
			c := &tokensource.Cache{Source: s}
			start := time.Now()
			for s.calls.Load() < 2 {
				c.Token(t.Context(), nil)
				time.Sleep(100 * time.Millisecond)
			}
			if got := time.Since(start); got < test.least || got > test.most+200*time.Millisecond {
				t.Errorf("Retry-After %v: asked again after %v, want %v to %v", test.after, got, test.least, test.most)
			}
		})
	}
}

func TestALifetimeOfTwoSecondsCausesOneRefreshPerLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Millisecond, 2*time.Second)
		c := &tokensource.Cache{Source: s}
		for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
			if _, err := c.Token(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.calls.Load(); got < 33 || got > 56 { // 60 s / (0.90 to 0.55 of 2 s)
			t.Errorf("%d refreshes in a minute, want 33 to 56", got)
		}
	})
}

func TestASourceThatReturnsTheSameExpiredTokenIsNotAskedInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := &Token{AccessToken: "same", Expiry: time.Now().Add(-time.Hour)}
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return expired, nil }}
		c := &tokensource.Cache{Source: s}
		for range 10000 { // ten seconds
			if _, err := c.Token(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if got := s.calls.Load(); got > 22 {
			t.Errorf("asked %d times in 10s, want at most 22", got)
		}
	})
}

func TestASourceWithNoOtherTokenReturnsTheRefusedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := &Token{AccessToken: "only"}
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) { return only, nil }}
		c := &tokensource.Cache{Source: s}
		for range 100 {
			got, err := c.Token(t.Context(), only)
			wantToken(t, got, err, "only")
		}
		if got := s.calls.Load(); got > 3 {
			t.Errorf("asked %d times at one moment, want at most 3", got)
		}
	})
}

func TestTheSameTokenAfterARefusalIsSpacedEvenIfItNamesItsOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
			return &Token{AccessToken: "same", RefreshAt: time.Now().Add(time.Minute)}, nil
		}}
		c := &tokensource.Cache{Source: s}
		tok, _ := c.Token(t.Context(), nil)
		for range 50 {
			got, err := c.Token(t.Context(), tok)
			wantToken(t, got, err, "same")
		}
		wantCalls(t, s, 2)
		time.Sleep(61 * time.Second)
		c.Token(t.Context(), nil)
		synctest.Wait()
		wantCalls(t, s, 3)
	})
}
