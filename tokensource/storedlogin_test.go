package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Logins, logouts and exchanges while locks are lost and clocks differ.

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

// cutOff is a store of one process, which may be cut off from it.
type cutOff struct {
	tokensource.Store
	cut atomic.Bool
}

func (c *cutOff) Load(ctx context.Context, key string) ([]byte, error) {
	if c.cut.Load() {
		return nil, errAway
	}
	return c.Store.Load(ctx, key)
}

func (c *cutOff) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if c.cut.Load() {
		return errAway
	}
	return c.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if c.cut.Load() {
				return errAway
			}
			return save(data)
		})
	})
}

func TestTheTokenOfWhoWonTheExchangeBeatsTheRefusalOfTheOthers(t *testing.T) {
	for _, keeps := range []bool{false, true} { // the server's: a refresh token that it keeps is refused rightly
		synctest.Test(t, func(t *testing.T) {
			store := new(storetest.Memory)
			winners := &cutOff{Store: store}
			var calls int
			source := tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
				if calls++; calls > 1 {
					return nil, fmt.Errorf("%w: %s", tokensource.ErrReauthenticate, old.RefreshToken)
				}
				winners.cut.Store(true)
				return &Token{AccessToken: "won", RefreshToken: map[bool]string{true: "R1", false: "R2"}[keeps]}, nil
			})
			winner, loser := newProcess(winners, source).stored, newProcess(store, source).stored
			first := &Token{AccessToken: "first", RefreshToken: "R1"}
			winner.Set(t.Context(), first)
			got, err := winner.Token(t.Context(), first)
			wantToken(t, got, err, "won")
			if _, err := loser.Token(t.Context(), first); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
			winners.cut.Store(false)
			for _, s := range []*tokensource.Stored{winner, loser, newProcess(store, source).stored} {
				got, err := s.Token(t.Context(), first)
				if keeps && !errors.Is(err, tokensource.ErrReauthenticate) || !keeps && (err != nil || got.AccessToken != "won") {
					t.Errorf("the server keeps the refresh token: %t: got %v, %v", keeps, got, err)
				}
			}
		})
	}
}

func TestATokenWithoutRefreshTokenBeatsTheRefusalOfTheOthersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		winners := &cutOff{Store: store}
		var calls int
		source := tokensource.Func(func(context.Context, *Token) (*Token, error) {
			if calls++; calls > 1 {
				return nil, tokensource.ErrReauthenticate
			}
			winners.cut.Store(true)
			return &Token{AccessToken: "won"}, nil
		})
		winner, loser := newProcess(winners, source).stored, newProcess(store, source).stored
		winner.Set(t.Context(), &Token{AccessToken: "first", Expiry: time.Now().Add(time.Minute)})
		time.Sleep(time.Minute)
		got, err := winner.Token(t.Context(), nil)
		wantToken(t, got, err, "won")
		if _, err := loser.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) || !value(t, store).Reauthenticate {
			t.Fatalf("got %v, want ErrReauthenticate for all", err)
		}
		winners.cut.Store(false)
		for _, s := range []*tokensource.Stored{winner, loser} {
			got, err := s.Token(t.Context(), nil)
			wantToken(t, got, err, "won")
		}
	})
}

func TestAFailedSaveCostsNoExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := &cutOff{Store: new(storetest.Memory)}, &family{life: time.Hour}
		p := newProcess(store, server)
		p.stored.Source = tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			store.cut.Store(server.calls.Load() == 0)
			return server.Token(ctx, old)
		})
		first, err := p.Token(t.Context(), nil)
		wantToken(t, first, err, "access-1")
		store.cut.Store(false)
		for range 60 {
			time.Sleep(time.Second)
			p.Token(t.Context(), nil)
			synctest.Wait()
		}
		if got := server.calls.Load(); got != 1 || p.stored.Pending() {
			t.Errorf("%d exchanges within a minute, pending %t, want 1 and the token saved", got, p.stored.Pending())
		}
		current, _ := p.Token(t.Context(), nil)
		got, err := p.Token(t.Context(), current) // refused
		wantToken(t, got, err, "access-2")
	})
}

// A token that is served because the store is away is to be asked for again after a second:
// then it will do. Whatever else is asked for again was refused, or its time has come.
func TestOnlyATokenThatWasToBeAskedForAgainIsServedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Hour}
		s := newProcess(store, tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			token, err := server.Token(ctx, old)
			token.RefreshAt = time.Now().Add(time.Minute)
			return token, err
		})).stored
		again := func(passes time.Duration, old *Token, want string) *Token {
			t.Helper()
			time.Sleep(passes)
			got, err := s.Token(t.Context(), old)
			wantToken(t, got, err, want)
			return got
		}
		again(0, nil, "access-1")
		second := again(time.Second, &Token{AccessToken: "access-1"}, "access-2")
		again(time.Minute, second, "access-3")
		for passes, want := range []string{"access-4", "access-4"} { // refused at once, or asked for in time
			store.load.Store(true)
			soon := again(0, nil, map[bool]string{true: "access-3", false: "access-4"}[passes == 0])
			store.load.Store(false)
			again(time.Duration(passes)*time.Second, soon, want)
		}
	})
}

func TestTimeoutBoundsACallWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.load.Store(true)
		s := newProcess(store, &family{delay: time.Hour}).stored
		s.Unshared, s.Timeout = true, 7*time.Second
		began := time.Now()
		_, err := s.Token(t.Context(), nil)
		if took := time.Since(began); took != s.Timeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v after %v, want DeadlineExceeded after 7s", err, took)
		}
	})
}

func TestAnEmptiedStoreIsFilledAgainWithTheNextCallAndWithoutAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(family)
		p := newProcess(new(storetest.Memory), server)
		p.Token(t.Context(), nil)
		empty := new(storetest.Memory)
		p.stored.Store = empty
		for _, p := range []*tokensource.Stored{p.stored, newProcess(empty, server).stored} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "access-1")
		}
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
		}
	})
}

// anEarlier is a store as a release uses it that does not know the name of a login.
type anEarlier struct{ tokensource.Store }

func (a anEarlier) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return a.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(data, &fields); err != nil {
				return err
			}
			delete(fields, "login")
			data, err := json.Marshal(fields)
			return errors.Join(err, save(data))
		})
	})
}

func TestReleasesThatNameNoLoginsMayShareTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		earlier, later := newProcess(anEarlier{store}, server), newProcess(store, server)
		for round := range 3 {
			for i, p := range []process{earlier, later, later, earlier} {
				server.current.Store(0)
				login := fmt.Sprintf("login-%d-%d", round, i)
				if err := p.Set(t.Context(), &Token{AccessToken: login, RefreshToken: "refresh-0"}); err != nil {
					t.Fatal(err)
				}
				old := &Token{AccessToken: login}
				for _, p := range []process{later, earlier, earlier, later} {
					next, err := p.stored.Token(t.Context(), old)
					if err != nil {
						t.Fatal(err)
					}
					old = next
				}
				if got := server.current.Load(); got != 4 {
					t.Errorf("%s: %d of 4 exchanges went well", login, got)
				}
			}
			later.Forget(t.Context())
			if _, err := earlier.stored.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("after the logout: got %v, want ErrReauthenticate", err)
			}
		}
	})
}

// A login may be saved though the answer is lost, and an earlier release goes on from it. What
// the process does meanwhile doesn't make it forget that.
func TestALoginIsNotSavedOverWhatAnEarlierReleaseMadeOfIt(t *testing.T) {
	login := &Token{AccessToken: "login", RefreshToken: "refresh-0"}
	nothing := func(*testing.T, *tokensource.Stored) {}
	for name, meanwhile := range map[string]struct {
		saving, saved func(*testing.T, *tokensource.Stored)
	}{
		"nothing": {nothing, nothing},
		"Token": {func(t *testing.T, s *tokensource.Stored) {
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			s.Token(short, nil)
		}, nothing},
		"Replace": {nothing, func(t *testing.T, s *tokensource.Stored) {
			s.Replace(t.Context(), login, &Token{AccessToken: "replaced"})
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(lossyStore), new(family)
			p := newProcess(store, server)
			store.saving = func() { meanwhile.saving(t, p.stored) }
			store.lose = func() {
				earlier := newProcess(anEarlier{store}, server).stored
				got, err := earlier.Token(t.Context(), login)
				wantToken(t, got, err, "access-1")
				got, err = earlier.Token(t.Context(), got)
				wantToken(t, got, err, "access-2")
				meanwhile.saved(t, p.stored)
			}
			if err := p.Set(t.Context(), login); err != nil {
				t.Fatal(name, err)
			}
			got, err := p.stored.Token(t.Context(), login)
			wantToken(t, got, err, "access-2")
		})
	}
}

// A lossyStore saves and loses the answer and the lock.
type lossyStore struct {
	storetest.Memory
	saving func() // has not got the lock
	lose   func()
	locked bool
}

func (l *lossyStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	lose := l.lose
	switch {
	case l.locked:
		return tokensource.ErrLocked
	case lose == nil:
		return l.Memory.Update(ctx, key, fn)
	}
	l.lose = nil
	value, err := l.Load(ctx, key)
	if err != nil {
		return err
	}
	saved := false
	return fn(value, func(data []byte) error {
		if saved {
			return tokensource.ErrLocked
		}
		saved = true
		l.locked = true
		l.saving()
		l.locked = false
		l.Memory.Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save(data) })
		lose()
		return errAway
	})
}
