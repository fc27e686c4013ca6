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

func TestAKeyThatWasNotUsedForLongMakesRoom(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	k.MaxKeys = 3
	ask := func(names ...string) {
		for _, name := range names {
			if _, err := k.Token(tenant(t.Context(), name), nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	ask("a", "b", "c", "d") // d takes the place of one of the three, and all have been passed by
	ask("c", "b", "a", "b", "c", "d")
	calls.Store(0)
	for i := range 100 { // new ones come, b is used in between
		ask("b", fmt.Sprint(i))
	}
	if got := calls.Load(); got > 101 {
		t.Errorf("%d tokens were obtained for 100 new keys and one in use, want at most 101", got)
	}
}

// rotating gives tokens with refresh tokens; those of "plain" have none.
func rotating(name string) tokensource.Source {
	return tokensource.Func(func(context.Context, *Token) (*Token, error) {
		if name == "plain" {
			return &Token{AccessToken: name}, nil
		}
		return &Token{AccessToken: name, RefreshToken: "refresh-" + name}, nil
	})
}

func TestARefreshTokenThatWouldBeLostMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(rotating)
		k.MaxKeys = 2
		ask := func(name string) error { _, err := k.Token(tenant(t.Context(), name), nil); return err }
		if err := errors.Join(ask("a"), ask("plain"), ask("b")); err != nil {
			t.Errorf("with room: %v", err)
		}
		for range 3 {
			if err := ask("c"); !errors.Is(err, tokensource.ErrKeysFull) {
				t.Errorf("without: got %v, want ErrKeysFull", err)
			}
		}
		if err := errors.Join(ask("a"), ask("b")); err != nil {
			t.Errorf("keys that are there: %v", err)
		}
		k.Forget(tenant(t.Context(), "b"))
		time.Sleep(time.Second)
		if err := ask("c"); err != nil {
			t.Errorf("after a logout: %v", err)
		}
	})
}

func TestAKeyInUseMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			return tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
				return &Token{AccessToken: name}, wait(ctx, 10*time.Second)
			})
		})
		k.MaxKeys = 1
		ctx, cancel := context.WithCancel(tenant(t.Context(), "a"))
		go k.Token(ctx, nil)
		synctest.Wait()
		ask := func() error { _, err := k.Token(tenant(t.Context(), "b"), nil); return err }
		if err := ask(); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with a caller: got %v, want ErrKeysFull", err)
		}
		cancel() // the refresh goes on
		time.Sleep(2 * time.Second)
		if err := ask(); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with a refresh: got %v, want ErrKeysFull", err)
		}
		time.Sleep(10 * time.Second)
		if err := ask(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestAKeyThatManyUseFirstAtOnceGetsOneCacheAndMakesRoomLater(t *testing.T) {
	for range 200 {
		var calls atomic.Int32
		k := byTenant(named(&calls))
		k.MaxKeys = 1
		all(20, func(int) error { return second(k.Token(tenant(t.Context(), "a"), nil)) })
		if got := calls.Load(); got != 1 {
			t.Fatalf("%d token requests for one key, want 1", got)
		}
		for _, name := range []string{"b", "a"} { // each makes room for the next
			got, err := k.Token(tenant(t.Context(), name), nil)
			wantToken(t, got, err, fmt.Sprintf("%s-%d", name, calls.Load()))
		}
		if got := calls.Load(); got != 3 {
			t.Errorf("%d token requests, want 3: two keys made room, and have forgotten", got)
		}
	}
}

func TestAKeyWhoseLoginIsOnItsWayMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			return &teller{source: numbered(0, 0), set: func(*Token) error { time.Sleep(time.Second); return nil }}
		})
		k.MaxKeys = 1
		go k.Set(tenant(t.Context(), "a"), &Token{AccessToken: "login"})
		synctest.Wait()
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != nil {
			t.Errorf("after the login: got %v, want a token", err)
		}
	})
}

func TestAKeyWhoseTokenIsLateMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &tokensource.Keyed[string]{Key: tenantOf, MaxKeys: 1}
		k.New = func(string) *tokensource.Cache { return &tokensource.Cache{Source: late(), Timeout: time.Second} }
		k.Token(tenant(t.Context(), "a"), nil)
		if _, err := k.Token(tenant(t.Context(), "b"), nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull: the token may come with a refresh token", err)
		}
		time.Sleep(15 * time.Second)
	})
}

// loginOnly has no token but by a login.
func loginOnly(string) tokensource.Source { return failing(tokensource.ErrReauthenticate) }

func TestALoginThatHasDiedMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(loginOnly)
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Set(a, &Token{AccessToken: "a", RefreshToken: "dead", Expiry: time.Now().Add(time.Hour)})
		login := func() error { return k.Set(b, &Token{AccessToken: "b"}) }
		for _, c := range []struct {
			passes time.Duration
			want   error
		}{
			{59 * time.Minute, tokensource.ErrKeysFull}, // an early refresh tells that it is dead, the access token is good
			{time.Second, tokensource.ErrKeysFull},
			{time.Minute, nil},
		} {
			time.Sleep(c.passes)
			k.Token(a, nil)
			synctest.Wait()
			if err := login(); err != c.want {
				t.Errorf("after %v more: got %v, want %v", c.passes, err, c.want)
			}
		}
	})
}

// Its Source has no other: an early refresh tells that the refresh token is dead.
func TestAGoodTokenOfADeadRefreshTokenMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if old != nil {
					return nil, tokensource.ErrReauthenticate
				}
				return &Token{AccessToken: "a", RefreshToken: "r", Expiry: time.Now().Add(time.Hour)}, nil
			})
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Token(a, nil)
		time.Sleep(59 * time.Minute)
		k.Token(a, nil)
		synctest.Wait()
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestAGoodLoginWithoutRefreshTokenMakesNoRoomUntilItHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(loginOnly)
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		if err := k.Set(a, &Token{AccessToken: "a", Expiry: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "a")
		time.Sleep(time.Hour)
		for i := range 3 {
			if err := k.Set(tenant(t.Context(), fmt.Sprint("b", i%2)), &Token{AccessToken: "b"}); err != nil {
				t.Errorf("after it has expired: %v", err)
			}
		}
	})
}

func TestARoomThatComesIsSeenAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(rotating)
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		k.Token(a, nil)
		if _, err := k.Token(b, nil); err != tokensource.ErrKeysFull {
			t.Errorf("got %v, want ErrKeysFull", err)
		}
		k.Forget(a) // there is room now
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// Its Source has no other, for it came with an answer.
func TestAGoodTokenFromAnAnswerMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(named(new(atomic.Int32)))
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		first, _ := k.Token(a, nil)
		k.Replace(a, first, &Token{AccessToken: "answer", Expiry: time.Now().Add(time.Hour)})
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "answer")
	})
}

// The Source has no other than the login's, but can give its own again.
func TestALoginThatItsSourceConfirmedMakesNoRoomAndATokenOfTheSourceDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if old == nil || old.AccessToken == "first" {
					return &Token{AccessToken: "source"}, nil
				}
				return old, nil
			})
		})
		k.MaxKeys = 2
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		login, first := &Token{AccessToken: "login"}, &Token{AccessToken: "first"}
		k.Set(a, login)
		k.Token(a, login)
		k.Set(b, first)
		second, _ := k.Token(b, first)
		k.Token(b, second)
		for i := range 3 {
			if _, err := k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil); err != nil {
				t.Errorf("got %v, want room", err)
			}
		}
		got, err := k.Token(a, nil)
		wantToken(t, got, err, "login")
	})
}

func TestARefreshTokenMakesNoRoomInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := ""
		k := byTenant(func(name string) tokensource.Source {
			return tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if name == "a" && old != nil {
					sent = old.RefreshToken
				}
				return nil, unavailable
			})
		})
		k.MaxKeys = 2
		a := tenant(t.Context(), "a")
		k.Set(a, &Token{RefreshToken: "r"})
		k.Token(a, nil)
		for i := range 3 {
			k.Token(tenant(t.Context(), fmt.Sprint("stranger-", i)), nil)
		}
		sent = ""
		k.Token(a, nil)
		if sent != "r" {
			t.Errorf("sent the refresh token %q, want r", sent)
		}
	})
}

func TestAKeyMakesNoRoomWhileACallerIsOnItsWayToTheCache(t *testing.T) {
	var calls atomic.Int32
	k := byTenant(named(&calls))
	k.MaxKeys = 1
	asked, other := 0, error(nil)
	k.Key = func(ctx context.Context) (string, error) {
		if asked++; asked == 2 { // the Cache is there, and is not asked yet
			_, other = k.Token(tenant(t.Context(), "b"), nil)
		}
		return tenantOf(ctx)
	}
	got, err := k.Token(tenant(t.Context(), "a"), nil)
	if wantToken(t, got, err, "a-1"); other != tokensource.ErrKeysFull {
		t.Errorf("another key: got %v, want ErrKeysFull", other)
	}
}

func TestAKeyWhoseCallersHaveWaitedForNewMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(name string) tokensource.Source {
			time.Sleep(time.Second)
			return tokensource.Static(&Token{AccessToken: name})
		})
		k.MaxKeys = 1
		all(2, func(int) error { return second(k.Token(tenant(t.Context(), "a"), nil)) })
		got, err := k.Token(tenant(t.Context(), "b"), nil)
		wantToken(t, got, err, "b")
	})
}

// Its caller has left, and the Source is told all the same.
func TestAKeyWhoseSourceIsYetToBeToldMakesNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := byTenant(func(string) tokensource.Source {
			return &teller{source: numbered(0, 0), set: func(*Token) error { time.Sleep(10 * time.Second); return nil }}
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		short, cancel := context.WithTimeout(a, time.Second)
		defer cancel()
		go k.Set(a, &Token{AccessToken: "first"})
		synctest.Wait()
		k.Set(short, &Token{AccessToken: "second"})
		time.Sleep(10 * time.Second) // the first is told
		for _, want := range []error{tokensource.ErrKeysFull, nil} {
			if _, err := k.Token(b, nil); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
			time.Sleep(10 * time.Second)
		}
	})
}
