package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

var unavailable = &tokensource.EndpointError{StatusCode: http.StatusServiceUnavailable}

// late gives a token after 15 s, whatever becomes of its context.
func late() *source {
	return &source{answer: func(_ context.Context, n int, _ *Token) (*Token, error) {
		time.Sleep(15 * time.Second)
		return &Token{AccessToken: "late"}, nil
	}}
}

func TestAGoodTokenCostsNoAllocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{Source: numbered(0, time.Hour)}
		for _, age := range []time.Duration{0, 30 * time.Minute} { // before the early refresh
			time.Sleep(age)
			c.Token(t.Context(), nil)
			if got := testing.AllocsPerRun(100, func() { c.Token(t.Context(), nil) }); got != 0 {
				t.Errorf("a token of %v: %v allocations, want 0", age, got)
			}
		}
	})
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

type key struct{}

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
