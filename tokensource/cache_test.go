package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
)

type Token = tokensource.Token

// A source answers the nth call, from 1, and counts the calls under way.
type source struct {
	answer func(ctx context.Context, n int, old *Token) (*Token, error)

	calls, inside, overlaps atomic.Int32
}

func (s *source) Token(ctx context.Context, old *Token) (*Token, error) {
	if s.inside.Add(1) > 1 {
		s.overlaps.Add(1)
	}
	defer s.inside.Add(-1)
	return s.answer(ctx, int(s.calls.Add(1)), old)
}

// wait sleeps, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// numbered gives token-1, token-2 and so on, each after delay, that live for life.
func numbered(delay, life time.Duration) *source {
	return &source{answer: func(ctx context.Context, n int, old *Token) (*Token, error) {
		began := time.Now()
		if err := wait(ctx, delay); err != nil {
			return nil, err
		}
		t := &Token{AccessToken: fmt.Sprintf("token-%d", n), RefreshToken: fmt.Sprintf("refresh-%d", n)}
		if life > 0 {
			t.Expiry = began.Add(life)
		}
		return t, nil
	}}
}

func failing(err error) *source {
	return &source{answer: func(context.Context, int, *Token) (*Token, error) { return nil, err }}
}

// all calls f n times at once and returns the errors in order.
func all(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}

func wantCalls(t *testing.T, s *source, want int32) {
	t.Helper()
	if got := s.calls.Load(); got != want {
		t.Errorf("the source was called %d times, want %d", got, want)
	}
	if got := s.overlaps.Load(); got != 0 {
		t.Errorf("%d calls of the source overlapped another", got)
	}
}

func wantToken(t *testing.T, got *Token, err error, want string) {
	t.Helper()
	if err != nil || got == nil || got.AccessToken != want {
		access := "none"
		if got != nil {
			access = got.AccessToken
		}
		t.Errorf("got token %s, error %v; want %s", access, err, want)
	}
}

func TestTenThousandCallersAtTheMomentOfExpiryShareOneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(200*time.Millisecond, time.Hour)
		c := &tokensource.Cache{Source: s}
		c.Set(t.Context(), &Token{AccessToken: "expired", Expiry: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		for i, err := range all(10000, func(int) error {
			tok, err := c.Token(t.Context(), nil)
			if err == nil && tok.AccessToken != "token-1" {
				err = errors.New(tok.AccessToken)
			}
			return err
		}) {
			if err != nil {
				t.Fatalf("caller %d: %v", i, err)
			}
		}
		wantCalls(t, s, 1)
	})
}

func TestAnOldTokenThatIsNoLongerCurrentCausesNoRefresh(t *testing.T) {
	s := numbered(0, time.Hour)
	c := &tokensource.Cache{Source: s}
	first, _ := c.Token(t.Context(), nil)
	second, err := c.Token(t.Context(), first)
	wantToken(t, second, err, "token-2")
	for range 50 {
		got, err := c.Token(t.Context(), first)
		wantToken(t, got, err, "token-2")
	}
	wantCalls(t, s, 2)
}

func TestTheSourceGetsTheCachesOwnTokenNotTheCallers(t *testing.T) {
	var olds []string
	s := numbered(0, time.Minute)
	answer := s.answer
	s.answer = func(ctx context.Context, n int, old *Token) (*Token, error) {
		if old != nil {
			olds = append(olds, old.RefreshToken)
		}
		return answer(ctx, n, old)
	}
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: s}
		first, _ := c.Token(t.Context(), nil)
		c.Token(t.Context(), first)
		time.Sleep(time.Minute)
		c.Token(t.Context(), first)
	})
	if got, want := fmt.Sprint(olds), "[refresh-1 refresh-2]"; got != want {
		t.Errorf("the source was given %s, want %s", got, want)
	}
}

func TestCallersLeaveAtTheirOwnTimeAndTheRefreshGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(200*time.Millisecond, time.Hour)
		c := &tokensource.Cache{Source: s}
		start := time.Now()
		first, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		waiter, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		began := make(chan time.Duration, 2)
		leave := func(ctx context.Context) {
			_, err := c.Token(ctx, nil)
			if err != ctx.Err() {
				t.Errorf("got error %v, want %v", err, ctx.Err())
			}
			began <- time.Since(start)
		}
		go leave(first)
		synctest.Wait()
		go leave(waiter)
		for _, err := range all(98, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
			if err != nil {
				t.Errorf("a caller that stayed got %v", err)
			}
		}
		if a, b := <-began, <-began; a != 10*time.Millisecond || b != 20*time.Millisecond {
			t.Errorf("left after %v and %v, want 10ms and 20ms", a, b)
		}
		wantCalls(t, s, 1)
		kept, _ := c.Token(t.Context(), nil)
		if kept.RefreshToken != "refresh-1" {
			t.Errorf("the rotated refresh token is %q, want refresh-1", kept.RefreshToken)
		}
	})
}

func TestARefreshThatEverybodyLeftIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Second, time.Hour)
		c := &tokensource.Cache{Source: s}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		c.Token(ctx, nil)
		time.Sleep(2 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		wantCalls(t, s, 1)
	})
}

func TestASourceThatNeverAnswersIsBoundedByTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(time.Hour, 0)
		c := &tokensource.Cache{Source: s, Timeout: 3 * time.Second}
		start := time.Now()
		for _, err := range all(100, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
		}
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("answered after %v, want 3s", got)
		}
		s.answer = numbered(0, time.Hour).answer
		time.Sleep(time.Second)
		_, err := c.Token(t.Context(), nil)
		if err != nil {
			t.Errorf("the next call: %v", err)
		}
		wantCalls(t, s, 2)
	})
}

func TestASourceThatIgnoresItsContextIsNeverCalledTwiceAtOnceAndItsLateTokenIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(10 * time.Second)
			return &Token{AccessToken: fmt.Sprintf("token-%d", n)}, nil
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second}
		for range 3 {
			if _, err := c.Token(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
			time.Sleep(time.Second)
		}
		wantCalls(t, s, 1)
		time.Sleep(5 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-1")
		wantCalls(t, s, 1)
	})
}

func TestALateTokenServesACallerThatCameInTheMeantime(t *testing.T) {
	for range 20 { // two things happen at one moment
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
				time.Sleep(10 * time.Second)
				return &Token{AccessToken: "late"}, nil
			}}
			c := &tokensource.Cache{Source: s, Timeout: 6 * time.Second}
			c.Token(t.Context(), nil)
			time.Sleep(2 * time.Second) // the pause is over
			got, err := c.Token(t.Context(), nil)
			wantToken(t, got, err, "late")
			synctest.Wait()
			wantCalls(t, s, 1)
		})
	}
}

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

func TestALateAnswerThatALoginIsNeededIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
			time.Sleep(10 * time.Second)
			return nil, tokensource.ErrReauthenticate
		}}
		c := &tokensource.Cache{Source: s, Timeout: time.Second}
		c.Token(t.Context(), nil)
		time.Sleep(time.Minute)
		if _, err := c.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		wantCalls(t, s, 1)
	})
}

func TestASourceThatPanicsOrExitsIsAnErrorForAllAndTheNextCallCanSucceed(t *testing.T) {
	for name, misbehave := range map[string]func(){
		"panicked: boom": func() { panic("boom") },
		"panicked: ":     func() { panic(nil) },
		"runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{answer: func(context.Context, int, *Token) (*Token, error) {
					time.Sleep(time.Millisecond)
					misbehave()
					return nil, nil
				}}
				c := &tokensource.Cache{Source: s, Patience: -1}
				for _, err := range all(10, func(int) error { _, err := c.Token(t.Context(), nil); return err }) {
					if err == nil || !strings.Contains(err.Error(), name) {
						t.Errorf("got %v, want an error that has %s", err, name)
					}
				}
				s.answer = numbered(0, 0).answer
				time.Sleep(time.Second)
				if _, err := c.Token(t.Context(), nil); err != nil {
					t.Errorf("the next call: %v", err)
				}
				wantCalls(t, s, 2)
			})
		})
	}
}

func TestACallThatEndsByGoexitAfterASetDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			time.Sleep(time.Second)
			if n == 1 {
				runtime.Goexit()
			}
			return numbered(0, 0).answer(t.Context(), n, nil)
		}}
		c := &tokensource.Cache{Source: s}
		began := time.Now()
		go func() {
			time.Sleep(time.Second / 2)
			c.Set(t.Context(), &Token{RefreshToken: "r"})
		}()
		if tok, err := c.Token(t.Context(), nil); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("got %v, %v after %v, want a token of the second call after 2 s", tok, err, time.Since(began))
		}
	})
}

func TestASourceWithoutATokenIsAnError(t *testing.T) {
	for name, answer := range map[string]*Token{"nil": nil, "empty": {RefreshToken: "r"}, "line feed": {AccessToken: "a\nb"}} {
		c := &tokensource.Cache{Source: tokensource.Static(answer), Patience: -1}
		if got, err := c.Token(t.Context(), nil); err == nil {
			t.Errorf("%s: got %v and no error", name, got)
		}
	}
	if _, err := (&tokensource.Cache{Patience: -1}).Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "Cache.Source") {
		t.Errorf("without a Source: got %v, want an error that names Cache.Source", err)
	}
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

var unavailable = &tokensource.EndpointError{StatusCode: http.StatusServiceUnavailable}

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

func TestTheContextOfARefreshEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var given context.Context
		c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			given = ctx
			return &Token{AccessToken: "a"}, ctx.Err()
		})}
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "a")
		synctest.Wait()
		if given.Err() == nil {
			t.Error("the context goes on, want it to end")
		}
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

func TestEverybodyWaitsForARefreshThatARefusalCaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, 0)
		c := &tokensource.Cache{Source: s}
		first, _ := c.Token(t.Context(), nil)
		answer := s.answer
		s.answer = func(ctx context.Context, n int, old *Token) (*Token, error) {
			time.Sleep(900 * time.Millisecond)
			return answer(ctx, n, old)
		}
		go c.Token(t.Context(), first)
		synctest.Wait()
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "token-2")
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

// late gives a token after 15 s, whatever becomes of its context.
func late() *source {
	return &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
		time.Sleep(15 * time.Second)
		return &Token{AccessToken: "late"}, nil
	}}
}

func TestALateTokenCountsForTheCallersThatItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan tokensource.Refresh, 2)
		c := &tokensource.Cache{Source: late(), Timeout: 6 * time.Second, OnRefresh: func(r tokensource.Refresh) { events <- r }}
		now := time.Now()
		c.Set(t.Context(), &Token{AccessToken: "good", RefreshAt: now.Add(90 * time.Second), Expiry: now.Add(100 * time.Second)})
		time.Sleep(90 * time.Second)
		c.Token(t.Context(), nil) // an early refresh, which is given up after 6 s
		time.Sleep(10 * time.Second)
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "late")
		<-events // that it was given up
		if last := <-events; last != (tokensource.Refresh{Cause: tokensource.Expired, Duration: 5 * time.Second, Waiters: 1}) {
			t.Errorf("got %+v, want one that waited 5s, because the token had expired", last)
		}
	})
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

func TestACallerWhoseContextHasEndedCausesNoRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, 0)
		c := &tokensource.Cache{Source: s}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Token(ctx, nil); err != context.Canceled {
			t.Errorf("got %v, want context.Canceled", err)
		}
		synctest.Wait()
		wantCalls(t, s, 0)
	})
}

func TestAGoodTokenCostsNoAllocation(t *testing.T) {
	c := &tokensource.Cache{Source: numbered(0, time.Hour)}
	c.Token(t.Context(), nil)
	if got := testing.AllocsPerRun(100, func() { c.Token(t.Context(), nil) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func TestAGoodTokenCostsNoAllocationDuringAnEarlyRefreshNorWhenALoginIsNeeded(t *testing.T) {
	for _, delay := range []time.Duration{time.Minute, 0} {
		synctest.Test(t, func(t *testing.T) {
			c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
				wait(ctx, delay)
				return nil, tokensource.ErrReauthenticate
			})}
			now := time.Now()
			c.Set(t.Context(), &Token{AccessToken: "good", RefreshAt: now.Add(time.Second), Expiry: now.Add(time.Hour)})
			time.Sleep(time.Second)
			c.Token(t.Context(), nil)
			synctest.Wait()
			if got := testing.AllocsPerRun(100, func() { c.Token(t.Context(), nil) }); got != 0 {
				t.Errorf("a Source that takes %v: %v allocations, want 0", delay, got)
			}
			time.Sleep(time.Minute)
		})
	}
}

func BenchmarkCacheGoodToken(b *testing.B) {
	c := &tokensource.Cache{Source: numbered(0, time.Hour)}
	c.Token(b.Context(), nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Token(b.Context(), nil)
		}
	})
}

func TestAJWTWithoutExpiryLivesAsLongAsItSaysWhateverTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
			wrong := time.Now().Add(-7 * time.Hour)
			signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
				"iat": wrong.Unix(), "exp": wrong.Add(10 * time.Minute).Unix(), "jti": n,
			}).SignedString([]byte("key"))
			return &Token{AccessToken: signed}, err
		}}
		c := &tokensource.Cache{Source: s}
		for range 60 {
			if _, err := c.Token(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if got := s.calls.Load(); got < 6 || got > 10 {
			t.Errorf("%d tokens of 10 minutes in an hour, want 6 to 10", got)
		}
	})
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

type key struct{}

func TestTheCallersHTTPTraceDoesNotSeeTheTokenEndpoint(t *testing.T) {
	s := &source{answer: func(ctx context.Context, _ int, _ *Token) (*Token, error) {
		if httptrace.ContextClientTrace(ctx) != nil {
			t.Error("the source got the caller's trace")
		}
		if got := ctx.Value(key{}); got != "value" {
			t.Errorf("the source got the value %v, want the caller's", got)
		}
		return &Token{AccessToken: "a"}, nil
	}}
	ctx := context.WithValue(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{}), key{}, "value")
	(&tokensource.Cache{Source: s}).Token(ctx, nil)
}

func TestTheCallersHTTPTraceDoesNotSeeTheTokenEndpointsConnection(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	s := &source{answer: func(ctx context.Context, _ int, _ *Token) (*Token, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		return &Token{AccessToken: "a"}, conn.Close()
	}}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		ConnectStart: func(string, string) { t.Error("the caller's trace saw the connection") },
	})
	if _, err := (&tokensource.Cache{Source: s}).Token(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestTheInitialRefreshTokenIsNotSentAgain(t *testing.T) {
	r := &tokensource.RefreshToken{RefreshToken: "initial"}
	if _, err := r.Token(t.Context(), &Token{AccessToken: "a"}); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want ErrReauthenticate", err)
	}
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

func TestATokenThatComesAtTheTimeoutIsNoFailure(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: func(ctx context.Context, n int, _ *Token) (*Token, error) {
				if n == 1 {
					<-ctx.Done()
				}
				return &Token{AccessToken: fmt.Sprint(n)}, nil
			}}
			c := &tokensource.Cache{Source: s, Timeout: time.Second, Patience: -1}
			c.Token(t.Context(), nil)
			synctest.Wait()
			tok, err := c.Token(t.Context(), nil)
			if err != nil {
				t.Fatalf("got %v, want the token", err)
			}
			if next, err := c.Token(t.Context(), tok); err != nil || next.AccessToken != "2" {
				t.Fatalf("got %v, %v after it was refused, want the next: nothing has failed since", next, err)
			}
		})
	}
}

func TestPeekReturnsWhatIsThereAndAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := numbered(0, time.Hour)
		c := &tokensource.Cache{Source: s}
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v of an empty Cache, want nil", got)
		}
		first, err := c.Token(t.Context(), nil)
		wantToken(t, first, err, "token-1")
		wantToken(t, c.Peek(t.Context(), nil), nil, "token-1")
		wantToken(t, c.Peek(t.Context(), &Token{AccessToken: "older"}), nil, "token-1")
		if got := c.Peek(t.Context(), first); got != nil {
			t.Errorf("got %v, want nil: there is no other token", got)
		}
		time.Sleep(time.Hour)
		if got := c.Peek(t.Context(), nil); got != nil {
			t.Errorf("got %v after its Expiry, want nil", got)
		}
		wantCalls(t, s, 1)
	})
}
