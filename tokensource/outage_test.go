package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// What callers notice of an outage, and when they are served again.

// tokenWithin asks with a deadline.
func tokenWithin(t *testing.T, c *tokensource.Cache, d time.Duration) (*Token, error) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return c.Token(ctx, nil)
}

func TestAnOutageOfTwoSecondsIsNotNoticed(t *testing.T) {
	for range 20 { // the pauses are drawn
		synctest.Test(t, func(t *testing.T) {
			s := outage(time.Now().Add(2*time.Second), unavailable)
			c := &tokensource.Cache{Source: s}
			for _, err := range all(50, func(int) error { return second(tokenWithin(t, c, 5*time.Second)) }) {
				if err != nil {
					t.Errorf("got %v, want a token", err)
				}
			}
			if got := s.calls.Load(); got > 12 {
				t.Errorf("%d token requests, want at most 12", got)
			}
		})
	}
}

// Patience counts from the first failure, not from a confirmation before it.
func TestAnOutageAfterTheSourceHasConfirmedItsTokenIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expiry := time.Now().Add(time.Minute)
		s := outage(expiry.Add(200*time.Millisecond), unavailable)
		after := s.answer
		s.answer = func(ctx context.Context, n int, old *Token) (*Token, error) {
			if time.Now().Before(expiry) {
				return &Token{AccessToken: "a", Expiry: expiry}, nil
			}
			return after(ctx, n, old)
		}
		c := &tokensource.Cache{Source: s}
		c.Token(t.Context(), nil)
		time.Sleep(55 * time.Second)
		c.Token(t.Context(), nil) // begins an early refresh
		time.Sleep(5 * time.Second)
		if _, err := c.Token(t.Context(), nil); err != nil {
			t.Errorf("got %v, want a token", err)
		}
	})
}

func TestAnOutageOfAMinuteIsNoticedAfterThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := outage(start.Add(time.Minute), unavailable)
		c := &tokensource.Cache{Source: s}
		for range 600 {
			asked := time.Now()
			_, err := c.Token(t.Context(), nil)
			switch waited := time.Since(asked); {
			case err == nil && time.Since(start) > 75*time.Second:
				t.Errorf("served %v after the beginning, want 75s at most", time.Since(start))
			case err != nil && err != unavailable:
				t.Errorf("got %v, want the 503", err)
			case asked.Sub(start) >= 3*time.Second && waited > 0 || time.Since(start) > 3*time.Second && waited > 3*time.Second:
				t.Errorf("%v after the beginning waited %v, want at most for the first 3s", time.Since(start), waited)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestCallersAreServedAgainWithinAQuarterOfAnOutage(t *testing.T) {
	for range 20 { // the pauses are drawn
		for _, length := range []time.Duration{100 * time.Millisecond, time.Second, 2 * time.Second, 10 * time.Second, time.Minute, 5 * time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				end := time.Now().Add(length)
				s := outage(end, unavailable)
				c := &tokensource.Cache{Source: s}
				for _, err := c.Token(t.Context(), nil); err != nil; _, err = c.Token(t.Context(), nil) {
					time.Sleep(10 * time.Millisecond)
				}
				if got, most := time.Since(end), max(300*time.Millisecond, length/4)+10*time.Millisecond; got > most {
					t.Errorf("after an outage of %v served again after %v, want %v at most", length, got, most)
				}
			})
		}
	}
}

func TestTheFirstTwoSecondsOfAnOutageCostAtMostTwelveTokenRequests(t *testing.T) {
	for range 50 { // the pauses are drawn
		synctest.Test(t, func(t *testing.T) {
			s := failing(unavailable)
			c := &tokensource.Cache{Source: s}
			tokenWithin(t, c, 2*time.Second)
			if got := s.calls.Load(); got > 12 {
				t.Errorf("%d token requests in 2s, want at most 12", got)
			}
		})
	}
}

func TestAnErrorThatWaitingDoesNotCureComesAtOnce(t *testing.T) {
	status := func(code int) error { return &tokensource.EndpointError{StatusCode: code} }
	for err, wait := range map[error]bool{
		tokensource.ErrReauthenticate: false, fmt.Errorf("%w: by a Func", tokensource.ErrReauthenticate): false,
		status(400): false, status(401): false, status(404): false,
		&tokensource.EndpointError{StatusCode: 503, RetryAfter: 4 * time.Second}: false,
		&tokensource.EndpointError{StatusCode: 503, RetryAfter: time.Second}:     true,
		status(408): true, status(425): true, status(429): true, status(500): true, status(503): true, status(200): true,
		errors.New("connection refused"): true,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &tokensource.Cache{Source: failing(err)}
			start := time.Now()
			_, got := c.Token(t.Context(), nil)
			if waited := time.Since(start); !errors.Is(got, err) || waited > 3*time.Second || waited > 0 != wait {
				t.Errorf("%v: got %v after %v, want that it waits: %t", err, got, waited, wait)
			}
		})
	}
}

func TestPatienceSaysHowLongAnOutageIsHidden(t *testing.T) {
	for patience, most := range map[time.Duration]time.Duration{-1: 0, 0: 3 * time.Second, 10 * time.Second: 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := &tokensource.Cache{Source: failing(unavailable), Patience: patience}
			start := time.Now()
			_, err := c.Token(t.Context(), nil)
			if got := time.Since(start); err != unavailable || got > most || got < most*7/10 {
				t.Errorf("Patience %v: got %v after %v, want the 503 after %v to %v", patience, err, got, most*7/10, most)
			}
		})
	}
}

// The refusal of a caller's token is not hidden longer than other errors.
func TestACallerWhoseTokenWasRefusedWaitsOutABlip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := outage(time.Now().Add(2*time.Second), unavailable)
		c := &tokensource.Cache{Source: s}
		old := &Token{AccessToken: "old"}
		c.Set(t.Context(), old)
		go c.Token(t.Context(), old)
		synctest.Wait()
		start := time.Now()
		got, err := c.Token(t.Context(), nil)
		if wantToken(t, got, err, "old"); time.Since(start) > 0 {
			t.Errorf("a caller with a good token waited %v, want 0", time.Since(start))
		}
		got, err = c.Token(t.Context(), old)
		if err != nil || got.AccessToken == "old" {
			t.Errorf("got %v, %v, want another token", got, err)
		}
	})
}

func TestALoginEndsTheWaitForABlip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing(&tokensource.EndpointError{StatusCode: 503, RetryAfter: 2 * time.Second})}
		start := time.Now()
		time.AfterFunc(time.Second, func() { c.Set(t.Context(), &Token{AccessToken: "login"}) })
		got, err := c.Token(t.Context(), nil)
		if wantToken(t, got, err, "login"); time.Since(start) != time.Second {
			t.Errorf("waited %v, want 1s", time.Since(start))
		}
	})
}

func TestAFirstAttemptThatHangsLeavesNothingToWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: numbered(time.Hour, 0)}
		start := time.Now()
		_, err := c.Token(t.Context(), nil)
		if got := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || got != 30*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 30s", err, got)
		}
	})
}

// One API refuses the token, and the token endpoint hangs. Requests to others go on.
func TestARefusalDelaysCallersWithAGoodTokenByASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Hour, 0)
		c := &tokensource.Cache{Source: s}
		old := &Token{AccessToken: "old"}
		c.Set(t.Context(), old)
		go func() {
			for range 40 { // for 40 s the API goes on refusing
				go c.Token(t.Context(), old)
				time.Sleep(time.Second)
			}
		}()
		var longest atomic.Int64
		for range 400 {
			asked := time.Now()
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "old")
			longest.Store(max(longest.Load(), int64(time.Since(asked))))
			time.Sleep(100 * time.Millisecond)
		}
		if got := time.Duration(longest.Load()); got > time.Second {
			t.Errorf("waited %v, want 1s at most", got)
		}
		time.Sleep(time.Minute)
	})
}

func TestALateErrorEndsNoOtherFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			if n == 1 {
				time.Sleep(1500 * time.Millisecond) // deaf to its context
				return nil, unavailable
			}
			return &Token{AccessToken: fmt.Sprint("token-", n)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second, Patience: -1}
		if _, err := c.Token(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		time.Sleep(400 * time.Millisecond)
		got, err := c.Token(t.Context(), nil) // waits for the first call
		wantToken(t, got, err, "token-2")
		wantCalls(t, s, 2)
	})
}

func TestNoExpiredTokenIsThereAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: failing(unavailable), Patience: -1}
		c.Set(t.Context(), &Token{AccessToken: "a", Expiry: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		c.Token(t.Context(), nil)
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v, want nil", got)
		}
	})
}

func TestTheFirstPausesOfManyDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shortest, longest := time.Hour, time.Duration(0)
		for range 200 {
			s := failing(unavailable)
			pause := gaps(t, &tokensource.Cache{Source: s, Patience: -1}, s, 2)[1]
			shortest, longest = min(shortest, pause), max(longest, pause)
		}
		if shortest > 200*time.Millisecond || longest < 280*time.Millisecond {
			t.Errorf("from %v to %v, want about 180ms to 300ms", shortest, longest)
		}
	})
}

// A token that the Source has confirmed is no failure, from which an outage is counted.
func TestABlipAfterAConfirmedTokenIsNotNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		only := &Token{AccessToken: "only", Expiry: time.Now().Add(time.Minute)}
		back := time.Now().Add(time.Minute + time.Second)
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
			switch {
			case time.Now().Before(only.Expiry):
				return only, nil
			case time.Now().Before(back):
				return nil, unavailable
			}
			return &Token{AccessToken: "next"}, nil
		}}
		c := &tokensource.Cache{Source: s}
		c.Token(t.Context(), nil)
		time.Sleep(59 * time.Second)
		c.Token(t.Context(), only) // is confirmed
		time.Sleep(time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "next")
	})
}

func TestATokenFromAnAnswerEndsThePauseOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := failing(unavailable)
		c := &tokensource.Cache{Source: s, Patience: -1}
		a, b := &Token{AccessToken: "a"}, &Token{AccessToken: "b"}
		c.Set(t.Context(), a)
		c.Token(t.Context(), a)
		c.Replace(t.Context(), a, b)
		c.Token(t.Context(), b)
		wantCalls(t, s, 2)
	})
}

func TestACacheWithoutASourceSaysSoAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := new(tokensource.Cache).Token(t.Context(), nil)
		if err == nil || err.Error() != "tokensource: Cache.Source is nil" || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want at once that the Source is nil", err, time.Since(began))
		}
	})
}

// outage fails until its end, and then gives tokens.
func outage(end time.Time, err error) *source {
	good := numbered(0, time.Hour)
	s := &source{}
	s.answer = func(ctx context.Context, n int, old *Token) (*Token, error) {
		if time.Now().Before(end) {
			return nil, err
		}
		return good.answer(ctx, n, old)
	}
	return s
}

func TestAnOutageOfTwoSecondsCostsAtMostTwelveTokenRequests(t *testing.T) {
	for range 20 { // the waits are drawn
		synctest.Test(t, func(t *testing.T) {
			end := time.Now().Add(2 * time.Second)
			s := outage(end, unavailable)
			c := &tokensource.Cache{Source: s}
			all(50, func(int) error {
				for {
					got, err := c.Token(t.Context(), nil)
					if got != nil {
						return nil
					}
					if !errors.Is(err, unavailable) {
						t.Errorf("got %v, want the endpoint's 503", err)
					}
					time.Sleep(7 * time.Millisecond)
				}
			})
			if late := time.Since(end); late > 2*time.Second {
				t.Errorf("working again %v after the end, want at most 2s", late)
			}
			if got := s.calls.Load(); got > 12 {
				t.Errorf("%d token requests, want at most 12", got)
			}
		})
	}
}

func TestAnOutageIsNotNoticedWhileTheTokenIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := outage(time.Now().Add(95*time.Second), unavailable)
		c := &tokensource.Cache{Source: s}
		c.Set(t.Context(), &Token{AccessToken: "good", Expiry: time.Now().Add(100 * time.Second)})
		for range 1000 {
			if _, err := c.Token(t.Context(), nil); err != nil {
				t.Fatalf("got %v", err)
			}
			time.Sleep(99 * time.Millisecond)
		}
		if s.calls.Load() < 2 {
			t.Error("no early refresh was tried again")
		}
	})
}
