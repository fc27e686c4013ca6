package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// In which order a Source is told of logins, logouts and replaced tokens.

// A diary is a Source that notes what it is told, each after a while.
type diary struct {
	*source
	wait time.Duration

	mu  sync.Mutex
	now string
}

func (d *diary) note(ctx context.Context, what string) error {
	if err := wait(ctx, d.wait); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = what
	return nil
}

func (d *diary) knows() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *diary) Set(ctx context.Context, t *Token) error { return d.note(ctx, t.AccessToken) }
func (d *diary) Replace(ctx context.Context, _, next *Token) error {
	return d.note(ctx, next.AccessToken)
}
func (d *diary) Forget(ctx context.Context) error { return d.note(ctx, "") }

func TestTheSourceHearsInTheOrderInWhichThingsTookEffect(t *testing.T) {
	for range 300 {
		d := &diary{source: failing(tokensource.ErrReauthenticate)}
		c := &tokensource.Cache{Source: d}
		all(8, func(i int) error {
			switch token := (&Token{AccessToken: fmt.Sprint(i)}); i % 4 {
			case 3:
				c.Forget(t.Context())
			case 2:
				c.Replace(t.Context(), &Token{AccessToken: fmt.Sprint(i - 1)}, token)
			default:
				c.Set(t.Context(), token)
			}
			return nil
		})
		current := ""
		if got := c.Peek(t.Context(), nil); got != nil {
			current = got.AccessToken
		}
		if d.knows() != current {
			t.Fatalf("the Source knows %q, the Cache %q", d.knows(), current)
		}
	}
}

func TestALaterLogoutOvertakesALoginThatTheSourceHasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: failing(tokensource.ErrReauthenticate), wait: time.Minute}
		c := &tokensource.Cache{Source: d}
		login := make(chan error)
		go func() { login <- c.Set(t.Context(), &Token{AccessToken: "a"}) }()
		synctest.Wait()
		start := time.Now()
		go func() { login <- c.Forget(t.Context()) }()
		for range 2 {
			if err := <-login; err != nil || d.knows() != "" || time.Since(start) != time.Minute {
				t.Errorf("returned %v after %v, and the Source knows %q, want nil after 1m and nothing", err, time.Since(start), d.knows())
			}
		}
	})
}

// A remembering diary notes what it is told in vain, too.
type remembering struct{ *diary }

func (r remembering) Replace(_ context.Context, _, next *Token) error {
	return r.diary.note(context.Background(), next.AccessToken)
}

func TestACallerThatWaitsForItsTurnLeavesWithItsContextAndTheSourceIsToldEvenSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: failing(tokensource.ErrReauthenticate), wait: time.Minute}
		c := &tokensource.Cache{Source: remembering{d}}
		a := &Token{AccessToken: "a"}
		go c.Set(t.Context(), a)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := c.Replace(ctx, a, &Token{AccessToken: "b"}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 1s", err, time.Since(start))
		}
		time.Sleep(time.Minute)
		if got := d.knows(); got != "a" {
			t.Errorf("after a minute the Source knows %q, want a", got)
		}
		time.Sleep(time.Minute)
		if got := d.knows(); got != "b" {
			t.Errorf("after two minutes the Source knows %q, want b", got)
		}
	})
}

// The Source is asked only once it knows of the login.
func TestNoTokenIsAskedForBeforeTheSourceKnowsOfTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: &source{}, wait: time.Second}
		d.answer = func(context.Context, int, *Token) (*Token, error) { return &Token{AccessToken: "of-" + d.knows()}, nil }
		c := &tokensource.Cache{Source: d}
		go c.Set(t.Context(), &Token{RefreshToken: "r"})
		synctest.Wait()
		d.mu.Lock()
		d.now = "the login before"
		d.mu.Unlock()
		start := time.Now()
		got, err := c.Token(t.Context(), nil)
		if wantToken(t, got, err, "of-"); time.Since(start) != time.Second {
			t.Errorf("asked after %v, want 1s", time.Since(start))
		}
	})
}

func TestALoginThatWaitedForItsTurnReturnsTheSourcesError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: failing(tokensource.ErrReauthenticate), wait: time.Minute}
		c := &tokensource.Cache{Source: failsToReplace{d}}
		a := &Token{AccessToken: "a"}
		go c.Set(t.Context(), a)
		synctest.Wait()
		if err := c.Replace(t.Context(), a, &Token{AccessToken: "b"}); err != unavailable {
			t.Errorf("got %v, want the Source's error", err)
		}
	})
}

type failsToReplace struct{ *diary }

func (failsToReplace) Replace(context.Context, *Token, *Token) error { return unavailable }

func TestALoginWhoseCallerLeavesIsNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: &diary{source: failing(unavailable), wait: time.Minute}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := c.Set(ctx, &Token{AccessToken: "a"}); err != context.Canceled {
			t.Errorf("got %v, want Canceled", err)
		}
	})
}

// A token of an answer stands between them.
func TestALogoutEndsALoginBeforeTheLastThing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: failing(tokensource.ErrReauthenticate), wait: time.Minute}
		c := &tokensource.Cache{Source: d}
		a, login := &Token{AccessToken: "a"}, make(chan error)
		go func() { login <- c.Set(t.Context(), a) }()
		synctest.Wait()
		go c.Replace(t.Context(), a, &Token{AccessToken: "b"})
		synctest.Wait()
		start := time.Now()
		go c.Forget(t.Context())
		if err := <-login; err != nil || d.knows() != "" || time.Since(start) != time.Minute {
			t.Errorf("Set returned %v after %v, and the Source knows %q, want nil after 1m and nothing", err, time.Since(start), d.knows())
		}
	})
}

// A tired diary takes no login, or any, after a while.
type tired struct {
	*diary
	takes error
}

func (d tired) Set(ctx context.Context, t *Token) error {
	if err := wait(ctx, time.Minute); err != nil {
		return err
	}
	return d.takes
}

// Nothing was saved: other processes go on with what the first of the two ended.
func TestALogoutThatIsOvertakenByALoginThatFailsIsNoSuccess(t *testing.T) {
	for _, takes := range []error{unavailable, nil} {
		synctest.Test(t, func(t *testing.T) {
			c := &tokensource.Cache{Source: tired{&diary{source: failing(unavailable), wait: time.Minute}, takes}}
			logout := make(chan error)
			go func() { logout <- c.Forget(t.Context()) }()
			synctest.Wait()
			go c.Set(t.Context(), &Token{AccessToken: "a"}) // overtaken itself
			synctest.Wait()
			go c.Set(t.Context(), &Token{AccessToken: "b"})
			if err := <-logout; err != takes {
				t.Errorf("Forget returned %v, want %v, as the last Set", err, takes)
			}
		})
	}
}

func TestALoginThatIsOvertakenWaitsWithinItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: &diary{source: failing(unavailable), wait: time.Minute}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		login := make(chan error)
		go func() { login <- c.Set(ctx, &Token{AccessToken: "a"}) }()
		synctest.Wait()
		go c.Forget(t.Context())
		if err := <-login; err != context.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
	})
}

func TestALoginThatTheSourceTakesForEverDelaysCallersByTimeoutAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{source: failing(unavailable), wait: time.Hour}
		c := &tokensource.Cache{Source: d, Patience: -1}
		go c.Set(t.Context(), &Token{RefreshToken: "r"})
		synctest.Wait()
		start := time.Now()
		_, err := c.Token(t.Context(), nil)
		if got := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || got != 30*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 30s", err, got)
		}
		time.Sleep(time.Hour)
	})
}

// The refresh waits until the Source knows the first login; the second ends it.
func TestARefreshThatALoginEndedNeitherAsksTheSourceNorFails(t *testing.T) {
	for _, slow := range []time.Duration{time.Second, time.Minute} { // the first login is taken before the refresh's Timeout, or after
		synctest.Test(t, func(t *testing.T) {
			l := &teller{source: failing(unavailable), set: func(*Token) error { time.Sleep(slow); return nil }}
			var events atomic.Int32
			c := &tokensource.Cache{Source: l, OnRefresh: func(tokensource.Refresh) { events.Add(1) }}
			a := &Token{AccessToken: "a"}
			go c.Set(t.Context(), a)
			synctest.Wait()
			go c.Token(t.Context(), a)
			synctest.Wait()
			go c.Set(t.Context(), &Token{AccessToken: "b"})
			time.Sleep(time.Hour)
			wantCalls(t, l.source, 0)
			if got := events.Load(); got != 0 {
				t.Errorf("first login taken after %v: %d refreshes were reported, want none", slow, got)
			}
		})
	}
}

// The second is told by a goroutine of the Cache's own, which no caller can recover.
func TestAPanicOfTheSourceThatIsToldIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		c := &tokensource.Cache{Source: &teller{source: numbered(0, 0), set: func(next *Token) error {
			time.Sleep(time.Second)
			if told = append(told, next.AccessToken); next.AccessToken != "c" {
				panic("boom")
			}
			return nil
		}}}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		first := make(chan error)
		go func() { first <- c.Set(t.Context(), &Token{AccessToken: "a"}) }()
		synctest.Wait()
		if err := c.Set(short, &Token{AccessToken: "b"}); err != context.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		if err := <-first; err == nil || !strings.Contains(err.Error(), "the source panicked: boom") {
			t.Errorf("got %v, want that the source panicked", err)
		}
		if err := c.Set(t.Context(), &Token{AccessToken: "c"}); err != nil || len(told) != 3 {
			t.Errorf("got %v, and the source was told of %v, want no error, and three logins", err, told)
		}
	})
}

func TestATypedNilErrorOfTheSourceThatIsToldIsAnError(t *testing.T) {
	c := &tokensource.Cache{Source: &teller{source: numbered(0, 0), set: func(*Token) error { return (*tokensource.StoreError)(nil) }}}
	if err := c.Set(t.Context(), &Token{AccessToken: "a"}); err == nil || !strings.Contains(err.Error(), "nil pointer") {
		t.Errorf("got %v, want an error that tells of the nil pointer", err)
	}
}
