package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Logins and logouts, also while locks are lost and clocks differ.

// ofLogin gives tokens that name the login that they come of.
var ofLogin = tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
	if old == nil {
		return nil, tokensource.ErrReauthenticate
	}
	return &Token{AccessToken: "of-" + old.RefreshToken, RefreshToken: old.RefreshToken, Expiry: time.Now().Add(time.Hour)}, nil
})

// putLogin makes the store hold a login by a clock that is ahead, as an earlier release
// or this one saves it.
func putLogin(t *testing.T, store tokensource.Store, ahead time.Duration, login string) {
	t.Helper()
	now := time.Now()
	put(t, store, "key", fmt.Sprintf(`{"v":1,"gen":%d,"login":%q,"token":{"access_token":"before","refresh_token":"RA","expiry":%q}}`,
		now.Add(ahead).UnixMilli(), login, now.Add(time.Hour).Format(time.RFC3339)))
}

// An evictedStore loses the lock at the first save, which replaces nothing, and lets
// another process come first.
type evictedStore struct {
	storetest.Memory
	first func()
}

func (e *evictedStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	first := e.first
	if first == nil {
		return e.Memory.Update(ctx, key, fn)
	}
	e.first = nil
	value, err := e.Load(ctx, key)
	if err != nil {
		return err
	}
	return fn(value, func([]byte) error {
		first()
		return tokensource.ErrLocked
	})
}

func TestALoginOrLogoutIsNotDroppedIfItLosesTheLockToARefreshWhateverTheClocksSay(t *testing.T) {
	for _, ahead := range []time.Duration{-5 * time.Second, 5 * time.Second} {
		for _, login := range []string{"", "earlier"} {
			for _, logout := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					store := new(evictedStore)
					putLogin(t, store, ahead, login)
					store.first = func() {
						for _, old := range []string{"before", "of-RA"} {
							got, err := newProcess(store, ofLogin).stored.Token(t.Context(), &Token{AccessToken: old})
							wantToken(t, got, err, "of-RA")
						}
					}
					p := newProcess(store, ofLogin)
					if err := setOrForget(t, p, logout); err != nil {
						t.Fatal(err)
					}
					for _, p := range []process{p, newProcess(store, ofLogin)} {
						got, err := p.stored.Token(t.Context(), nil)
						if logout && !errors.Is(err, tokensource.ErrReauthenticate) || !logout && (err != nil || got.AccessToken != "login") {
							t.Errorf("%v ahead, logout %t: it returned nil, and then: %v, %v", ahead, logout, got, err)
						}
					}
				})
			}
		}
	}
}

// setOrForget logs in as "login" with the refresh token RB, or logs out.
func setOrForget(t *testing.T, p process, logout bool) error {
	if logout {
		return p.Forget(t.Context())
	}
	return p.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "RB"})
}

func TestATokenDuringALoginDoesNotBringTheLoginBeforeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		putLogin(t, store, time.Second, "alice")
		go store.Update(t.Context(), "key", func([]byte, func([]byte) error) error { time.Sleep(500 * time.Millisecond); return nil })
		synctest.Wait()
		p := newProcess(store, ofLogin)
		done := make(chan error, 1)
		go func() { done <- p.Set(t.Context(), &Token{RefreshToken: "RB"}) }()
		synctest.Wait()
		got, err := p.Token(t.Context(), nil)
		wantToken(t, got, err, "of-RB")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// While a login waits for the lock, another of the same process gives up at once.
func TestALoginThatGivesUpDoesNotTakeAnotherAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		putLogin(t, store, time.Second, "alice")
		go store.Update(t.Context(), "key", func([]byte, func([]byte) error) error { time.Sleep(500 * time.Millisecond); return nil })
		synctest.Wait()
		p := newProcess(store, ofLogin)
		done := make(chan error, 1)
		go func() { done <- p.stored.Set(t.Context(), &Token{AccessToken: "first", RefreshToken: "R1"}) }()
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		p.stored.Set(gone, &Token{AccessToken: "second", RefreshToken: "R2"})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got, err := newProcess(store, ofLogin).Token(t.Context(), nil)
		wantToken(t, got, err, "second")
	})
}

func TestALoginThatFailedYieldsToOneOfAboutTheSameTime(t *testing.T) {
	for ahead, want := range map[time.Duration]string{-11 * time.Second: "login", -9 * time.Second: "before", time.Hour: "before"} {
		synctest.Test(t, func(t *testing.T) {
			store := new(brokenStore)
			store.update.Store(true)
			p := newProcess(store, ofLogin)
			if err := setOrForget(t, p, false); !isStoreError(err, "update") || !p.stored.Pending() {
				t.Fatalf("got %v, pending %t, want a StoreError and a pending login", err, p.stored.Pending())
			}
			store.update.Store(false)
			putLogin(t, store, ahead, "another")
			got, err := p.stored.Token(t.Context(), nil)
			wantToken(t, got, err, want)
		})
	}
}

// A look without the lock decides nothing for a login that waits for it.
func TestALoginThatFailedYieldsThoughATokenHasLookedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		putLogin(t, store, 2*time.Second, "another")
		go store.Update(t.Context(), "key", func([]byte, func([]byte) error) error { time.Sleep(time.Second); return nil })
		synctest.Wait()
		p := newProcess(store, ofLogin)
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- p.stored.Set(short, &Token{AccessToken: "login", RefreshToken: "RB"}) }()
		synctest.Wait()
		p.stored.Token(short, nil)
		if err := <-done; err != context.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		time.Sleep(time.Second)
		got, err := p.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "before")
	})
}

func TestADeadRefreshTokenIsToldToAllAndALoginHealsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		server.current.Store(-1)
		for _, p := range []process{a, b} {
			if _, err := p.Token(t.Context(), first); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want ErrReauthenticate", err)
			}
		}
		if got := server.calls.Load(); got != 2 {
			t.Errorf("%d exchanges, want 2: one told both", got)
		}
		if err := a.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "refresh-0"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second) // at most
		for _, p := range []process{a, b, newProcess(store, server)} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "login")
		}
		if got := server.calls.Load(); got != 2 {
			t.Errorf("%d exchanges, want 2", got)
		}
	})
}

func TestALoginReachesTheOthersWithin30SecondsHoweverLongTheyHaveWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		if err := a.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
			if _, err := b.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
		}
		if err := a.Set(t.Context(), &Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		got, err := b.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
	})
}

func TestALogoutIsToldToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		a, b := newProcess(store, server), newProcess(store, server)
		a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		if err := a.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := value(t, store); !v.Reauthenticate || v.Token.Refresh_Token != "" {
			t.Errorf("the store has %+v, want no token", v)
		}
		time.Sleep(time.Minute)
		if _, err := b.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) || server.calls.Load() != 1 {
			t.Errorf("got %v after %d exchanges, want ErrReauthenticate after 1", err, server.calls.Load())
		}
	})
}

func TestALoginWinsOverAnExchangeInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: 5 * time.Second}
		a, b := newProcess(store, server), newProcess(store, server)
		go a.Token(t.Context(), nil)
		synctest.Wait()
		for _, p := range []process{a, b} {
			login := "login-of-" + map[bool]string{true: "a", false: "b"}[p == a]
			if err := p.Set(t.Context(), &Token{AccessToken: login}); err != nil {
				t.Fatal(err)
			}
			if v := value(t, store); v.Token.Access_Token != login {
				t.Errorf("the store has %+v, want %s", v, login)
			}
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, login)
		}
	})
}

func TestALoginAfterTheStoreWasEmptiedReachesWhoKnewTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		older, newer := newProcess(store, server), newProcess(store, server)
		token, _ := older.Token(t.Context(), nil)
		for range 5 {
			newer.Token(t.Context(), nil)
			token, _ = newer.Token(t.Context(), token)
		}
		put(t, store, "key", `{"v":1,"gen":1,"token":{"access_token":"access-1","refresh_token":"refresh-1"}}`)
		time.Sleep(time.Minute)
		if _, err := older.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate: it knew only a spent refresh token", err)
		}
		if err := older.Set(t.Context(), &Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		for _, p := range []process{newer, older} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "login")
		}
	})
}
