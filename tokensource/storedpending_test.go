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

// What is pending, when the store is there again.

// The clock of who saved the login before is ahead.
func TestALoginThatFailedReplacesTheLoginThatItFoundWhateverTheClocksSay(t *testing.T) {
	for _, logins := range []int{1, 2} { // each of which fails
		synctest.Test(t, func(t *testing.T) {
			store := new(brokenStore)
			putLogin(t, store, time.Hour, "alice")
			p := newProcess(store, ofLogin)
			got, err := p.stored.Token(t.Context(), nil)
			wantToken(t, got, err, "before")
			store.update.Store(true)
			last := ""
			for i := range logins {
				last = fmt.Sprint("login-", i)
				if err := p.stored.Set(t.Context(), &Token{AccessToken: last, RefreshToken: last}); !isStoreError(err, "update") {
					t.Fatalf("got %v, want a StoreError", err)
				}
			}
			store.update.Store(false)
			got, err = p.stored.Token(t.Context(), nil)
			wantToken(t, got, err, last)
		})
	}
}

// The refusal is of R1, which the pending token has still, or has exchanged for R2.
func TestARefusalCountsForAReplacedTokenThatHasItsRefreshToken(t *testing.T) {
	for _, c := range []struct {
		exchanged bool     // the refresh token of the first that is pending; else Replace made it
		replaced  []string // refresh tokens of those that replace it, in turn
		ended     bool
	}{
		{false, []string{"R1"}, true},
		{false, []string{"R2"}, false},
		{false, []string{"R1", "R1"}, true},
		{false, []string{"R1", "R2"}, false},
		{false, []string{"R2", "R2"}, false},
		{true, []string{"R2"}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := new(storetest.Memory)
			mine := &brokenStore{shared: store}
			calls := 0
			source := tokensource.Func(func(context.Context, *Token) (*Token, error) {
				if calls++; c.exchanged && calls == 1 {
					mine.cut(true)
					return &Token{AccessToken: "exchanged", RefreshToken: "R2"}, nil
				}
				return nil, tokensource.ErrReauthenticate
			})
			s, other := newProcess(mine, source).stored, newProcess(store, source).stored
			newest := &Token{AccessToken: "login", RefreshToken: "R1"}
			s.Set(t.Context(), newest)
			if c.exchanged {
				newest, _ = s.Token(t.Context(), newest)
			}
			mine.cut(true)
			for i, refresh := range c.replaced {
				next := &Token{AccessToken: fmt.Sprint("replaced-", i), RefreshToken: refresh}
				s.Replace(t.Context(), newest, next)
				newest = next
			}
			if _, err := other.Token(t.Context(), &Token{AccessToken: "login"}); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
			mine.cut(false)
			got, err := s.Token(t.Context(), nil)
			if c.ended && !errors.Is(err, tokensource.ErrReauthenticate) || !c.ended && (err != nil || got.AccessToken != newest.AccessToken) {
				t.Errorf("%+v: got %v, %v", c, got, err)
			}
		})
	}
}

// A deafStore saves, and says that it has not.
type deafStore struct {
	storetest.Memory
	deaf bool
}

func (d *deafStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return d.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if err := save(data); err != nil || !d.deaf {
				return err
			}
			return errAway
		})
	})
}

func TestWhatReplacesALoginIsNewerThanTheLoginThatMayHaveBeenSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &deafStore{deaf: true}
		s := newProcess(store, ofLogin).stored
		login := &Token{AccessToken: "login", RefreshToken: "R1"}
		if err := s.Set(t.Context(), login); !isStoreError(err, "save") {
			t.Fatalf("got %v, want a StoreError", err)
		}
		store.deaf = false
		if err := s.Replace(t.Context(), login, &Token{AccessToken: "replaced"}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Token(t.Context(), nil)
		wantToken(t, got, err, "replaced")
	})
}

func TestALoadThatTheCallersContextEndsTellsNothingOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		s := newProcess(store, ofLogin).stored
		s.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "R1"})
		store.hang.Store(true)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, err := range map[string]error{"Token": second(s.Token(short, nil)), "Look": s.Look(short)} {
			if err != context.DeadlineExceeded {
				t.Errorf("%s: got %v, want DeadlineExceeded", name, err)
			}
		}
		if s.Pending() {
			t.Error("the login is pending again, want it saved")
		}
	})
}

func TestWhatComesDuringAnExchange(t *testing.T) {
	login := &Token{AccessToken: "login", RefreshToken: "R1"}
	exchanged := &Token{AccessToken: "exchanged", RefreshToken: "R2"}
	for name, c := range map[string]struct {
		comes     func(t *testing.T, s *tokensource.Stored, store *brokenStore)
		exchanged *Token // nil: the refresh token is refused
		want      string
	}{
		"a token with a refresh token that isn't refused": {func(t *testing.T, s *tokensource.Stored, _ *brokenStore) {
			s.Replace(t.Context(), login, &Token{AccessToken: "replaced", RefreshToken: "R3"})
		}, nil, "replaced"},
		"a token with the refresh token that is exchanged": {func(t *testing.T, s *tokensource.Stored, store *brokenStore) {
			s.Replace(t.Context(), login, &Token{AccessToken: "replaced"})
			store.save.Store(true)
		}, exchanged, "exchanged"},
		"a login": {func(t *testing.T, s *tokensource.Stored, _ *brokenStore) {
			another := &Token{AccessToken: "another", RefreshToken: "R4"}
			go s.Set(t.Context(), another)
			synctest.Wait()
			s.Replace(t.Context(), another, &Token{AccessToken: "replaced"})
		}, exchanged, "replaced"},
	} {
		synctest.Test(t, func(t *testing.T) {
			store, s := new(brokenStore), new(tokensource.Stored)
			*s = tokensource.Stored{Store: store, Key: "key", Source: tokensource.Func(func(context.Context, *Token) (*Token, error) {
				c.comes(t, s, store)
				if c.exchanged == nil {
					return nil, tokensource.ErrReauthenticate
				}
				return c.exchanged, nil
			})}
			s.Set(t.Context(), login)
			s.Token(t.Context(), login)
			store.save.Store(false)
			got, err := s.Token(t.Context(), login)
			t.Log(name)
			wantToken(t, got, err, c.want)
			if s.Pending() {
				t.Errorf("%s: it is not saved", name)
			}
		})
	}
}

// What came under the name of a token that was saved meanwhile is not what was tried.
func TestALoginOrLogoutDuringAnExchangeIsNotDroppedForWhatAnEarlierReleaseSavesThen(t *testing.T) {
	for _, logout := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := new(storetest.Memory)
			putLogin(t, store, time.Hour, "")
			p := newProcess(store, nil)
			done := make(chan error, 1)
			p.stored.Source = tokensource.Func(func(context.Context, *Token) (*Token, error) {
				go func() {
					done <- setOrForget(t, process{stored: p.stored, Cache: &tokensource.Cache{Source: p.stored}}, logout)
				}()
				synctest.Wait()
				if logout {
					return nil, tokensource.ErrReauthenticate
				}
				return &Token{AccessToken: "exchanged"}, nil
			})
			p.stored.Token(t.Context(), &Token{AccessToken: "before"})
			earlier := newProcess(anEarlier{store}, ofLogin).stored
			for range 3 { // each counts on
				earlier.Set(t.Context(), &Token{AccessToken: "earlier", RefreshToken: "RE"})
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			got, err := p.stored.Token(t.Context(), nil)
			if logout && !errors.Is(err, tokensource.ErrReauthenticate) || !logout && (err != nil || got.AccessToken != "login") {
				t.Errorf("logout %t: it returned nil, and then: %v, %v", logout, got, err)
			}
		})
	}
}

// The second login's own save comes later than the user can wait, and then the store is away.
func TestALoginThatCameWhileAnotherWasSavedReplacesThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &savingStore{}
		s := newProcess(store, ofLogin).stored
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		store.saving = func() error {
			store.saving = func() error { return errAway }
			s.Set(gone, &Token{AccessToken: "second", RefreshToken: "R2"})
			return nil
		}
		if err := s.Set(t.Context(), &Token{AccessToken: "first", RefreshToken: "R1"}); !isStoreError(err, "save") {
			t.Fatalf("got %v, want a StoreError", err)
		}
		store.saving = func() error { return nil }
		got, err := s.Token(t.Context(), nil)
		wantToken(t, got, err, "second")
	})
}

// A savingStore asks before each save.
type savingStore struct {
	storetest.Memory
	saving func() error
}

func (d *savingStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return d.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if err := d.saving(); err != nil {
				return err
			}
			return save(data)
		})
	})
}

func TestARefusalThatAnotherProcessHasMetWhileThisOneWaitedIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, calls := new(storetest.Memory), 0
		refused := tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			calls++
			wait(ctx, time.Second)
			return nil, tokensource.ErrReauthenticate
		})
		putLogin(t, store, 0, "")
		for _, err := range all(2, func(int) error {
			_, err := newProcess(store, refused).stored.Token(t.Context(), &Token{AccessToken: "before"})
			return err
		}) {
			if !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want ErrReauthenticate", err)
			}
		}
		if calls != 1 {
			t.Errorf("the source was asked %d times, want once", calls)
		}
	})
}

func TestATokenThatWasObtainedWithoutTheStoreIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		s := newProcess(store, tokensource.Func(func(context.Context, *Token) (*Token, error) {
			return &Token{AccessToken: "alone"}, nil
		})).stored
		s.Unshared = true
		for _, away := range []bool{true, false} {
			store.load.Store(away)
			got, err := s.Token(t.Context(), nil)
			wantToken(t, got, err, "alone")
			if s.Pending() != away {
				t.Errorf("the store is away: %t, pending: %t", away, s.Pending())
			}
		}
	})
}

func TestAStoredTokenMakesRoomInKeyedOnceItIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		k := byTenant(func(name string) tokensource.Source {
			return &tokensource.Stored{Source: new(family), Store: store, Key: name}
		})
		k.MaxKeys = 1
		ask := func(name string) error { _, err := k.Token(tenant(t.Context(), name), nil); return err }
		store.save.Store(true)
		if err := ask("a"); err != nil {
			t.Fatal(err)
		}
		if err := ask("b"); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with an unsaved token: got %v, want ErrKeysFull", err)
		}
		store.save.Store(false)
		time.Sleep(2 * time.Second)
		ask("a") // saves
		time.Sleep(time.Second)
		if err := errors.Join(ask("b"), ask("a")); err != nil {
			t.Errorf("with a saved one: %v", err)
		}
	})
}

// A wrapper passes on what a Stored tells, as a type of one's own does.
type wrapper struct{ stored *tokensource.Stored }

func (w wrapper) Token(ctx context.Context, old *Token) (*Token, error) {
	return w.stored.Token(ctx, old)
}
func (w wrapper) Set(ctx context.Context, token *Token) error { return w.stored.Set(ctx, token) }
func (w wrapper) Forget(ctx context.Context) error            { return w.stored.Forget(ctx) }
func (w wrapper) Pending() bool                               { return w.stored.Pending() }

func TestAWrapperRoundAStoredMayPassOnWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		k := byTenant(func(name string) tokensource.Source {
			return wrapper{&tokensource.Stored{Source: new(family), Store: store, Key: "key-" + name}}
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		first, _ := k.Token(a, nil) // has a refresh token, which is saved
		if err := second(k.Token(b, nil)); err != nil {
			t.Errorf("with a saved token: %v", err)
		}
		store.update.Store(true)
		k.Forget(b)
		if err := second(k.Token(a, nil)); err != tokensource.ErrKeysFull {
			t.Errorf("with an unsaved logout: got %v, want ErrKeysFull", err)
		}
		store.update.Store(false)
		if err := second(k.Token(b, first)); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		time.Sleep(time.Second)
		if err := second(k.Token(a, nil)); err != nil {
			t.Errorf("with a saved logout: %v", err)
		}
	})
}
