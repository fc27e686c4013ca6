package tokensource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// What Stored does around the lock and under it.

// A watchedStore notes what it is given, and lets a test step in between.
type watchedStore struct {
	storetest.Memory
	loaded   func() // between a Load and its caller
	contexts []context.Context
	results  []error // of fn
	loads    []time.Time
}

func (w *watchedStore) Load(ctx context.Context, key string) ([]byte, error) {
	w.contexts, w.loads = append(w.contexts, ctx), append(w.loads, time.Now())
	value, err := w.Memory.Load(ctx, key)
	if w.loaded != nil {
		w.loaded()
	}
	return value, err
}

func (w *watchedStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	w.contexts = append(w.contexts, ctx)
	return w.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		err := fn(value, save)
		w.results = append(w.results, err)
		return err
	})
}

func TestTheContextsOfAStoreAndOfASourceEndWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(watchedStore)
		source := tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			store.contexts = append(store.contexts, ctx)
			return &Token{AccessToken: "a"}, nil
		})
		got, err := newProcess(store, source).stored.Token(t.Context(), nil)
		wantToken(t, got, err, "a")
		for i, ctx := range store.contexts {
			if ctx.Err() == nil {
				t.Errorf("context %d goes on, want it to end", i)
			}
		}
	})
}

func TestWhatAnotherProcessSavedBeforeTheLockIsNotExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(watchedStore), new(family)
		store.loaded = func() {
			store.loaded = nil
			newProcess(store, server).Token(t.Context(), nil)
		}
		got, err := newProcess(store, server).Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
	})
}

func TestAfterALogoutThatWasSavedBeforeTheLockNothingIsExchanged(t *testing.T) {
	store, server := new(watchedStore), new(family)
	store.loaded = func() {
		store.loaded = nil
		newProcess(store, server).Forget(t.Context())
	}
	_, err := newProcess(store, server).Token(t.Context(), nil)
	if !errors.Is(err, tokensource.ErrReauthenticate) || server.calls.Load() != 0 {
		t.Errorf("got %v after %d exchanges, want ErrReauthenticate after none", err, server.calls.Load())
	}
}

func TestAnExpiredTokenOfTheStoreIsExchangedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		newProcess(store, server).Token(t.Context(), nil)
		time.Sleep(time.Minute)
		got, err := newProcess(store, server).Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
	})
}

func TestAStoreLearnsThatAnExchangeFailed(t *testing.T) {
	store := new(watchedStore)
	newProcess(store, failing(unavailable)).stored.Token(t.Context(), nil)
	if len(store.results) != 1 || store.results[0] == nil {
		t.Errorf("fn returned %v, want one error", store.results)
	}
}

func TestATokenThatNoHeaderMayCarryIsNotSaved(t *testing.T) {
	store := new(storetest.Memory)
	for _, bad := range []*Token{{AccessToken: "a\nb"}, {RefreshToken: "alone"}} {
		p := newProcess(store, tokensource.Static(bad))
		if got, err := p.stored.Token(t.Context(), nil); got != nil || err == nil {
			t.Errorf("got %v and %v, want an error", got, err)
		}
		if data, _ := store.Load(t.Context(), "key"); data != nil {
			t.Errorf("the store has %s, want nothing", data)
		}
	}
}

// What a Source says that has no refresh token to lose: a login API, say.
func TestALoginIsNeededByAllOnlyOnceTheTokenHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		p := newProcess(store, failing(tokensource.ErrReauthenticate))
		if _, err := p.stored.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) || value(t, store).Reauthenticate {
			t.Errorf("before the first login: got %v, the store has %+v, want nothing", err, value(t, store))
		}
		token := &Token{AccessToken: "login", Expiry: time.Now().Add(time.Minute)}
		p.stored.Set(t.Context(), token)
		if _, err := p.stored.Token(t.Context(), token); !errors.Is(err, tokensource.ErrReauthenticate) || value(t, store).Reauthenticate {
			t.Errorf("refused: got %v, the store has %+v, want the token, which others may like", err, value(t, store))
		}
		time.Sleep(time.Minute)
		if _, err := p.stored.Token(t.Context(), token); !errors.Is(err, tokensource.ErrReauthenticate) || !value(t, store).Reauthenticate {
			t.Errorf("expired: got %v, the store has %+v, want that a login is needed", err, value(t, store))
		}
	})
}

func TestThatALoginIsNeededIsToldWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		newProcess(store, new(family)).Forget(t.Context())
		store.Update(t.Context(), "key", func([]byte, func([]byte) error) error {
			began := time.Now()
			_, err := newProcess(store, new(family)).stored.Token(t.Context(), nil)
			if !errors.Is(err, tokensource.ErrReauthenticate) || time.Since(began) != 0 {
				t.Errorf("got %v after %v, want ErrReauthenticate at once", err, time.Since(began))
			}
			return nil
		})
	})
}

func TestAWaiterLooksAgainAfterMoreAndMoreTimeUpToASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(watchedStore)
		p := newProcess(store, new(family))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		store.Update(t.Context(), "key", func([]byte, func([]byte) error) error {
			p.stored.Token(ctx, nil)
			return nil
		})
		most := 50 * time.Millisecond
		for i, at := range store.loads[1:] {
			if gap := at.Sub(store.loads[i]); gap < most/2 || gap > most {
				t.Errorf("look %d came after %v, want %v to %v", i+1, gap, most/2, most)
			}
			most = min(2*most, time.Second)
		}
	})
}

func TestATimeoutOfOnesOwnBoundsTheExchangeWithTheTimeForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := &slowStore{lock: 2 * time.Second}, new(family)
		p := newProcess(store, server)
		p.stored.Timeout = time.Second
		if _, err := p.stored.Token(t.Context(), nil); !isStoreError(err, "update") || !strings.Contains(err.Error(), "too slow") || server.calls.Load() != 0 {
			t.Errorf("got %v after %d exchanges, want a StoreError before the first", err, server.calls.Load())
		}
		p.stored.Timeout = 3 * time.Second
		got, err := p.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
	})
}

func TestAStoreThatIsSlowToLockIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := &slowStore{lock: 6 * time.Second}, new(family)
		_, err := newProcess(store, server).stored.Token(t.Context(), nil)
		if !isStoreError(err, "update") || !errors.Is(err, context.DeadlineExceeded) || server.calls.Load() != 0 {
			t.Errorf("got %v after %d exchanges, want a StoreError that it took too long", err, server.calls.Load())
		}
	})
}

// hangingUpdate waits in Update until its context ends.
type hangingUpdate struct{ storetest.Memory }

func (h *hangingUpdate) Update(ctx context.Context, _ string, _ func([]byte, func([]byte) error) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestACallerLeavesAStoreThatHangsAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loads, server := new(brokenStore), new(family)
		p := newProcess(loads, server)
		p.Token(t.Context(), nil)
		loads.hang.Store(true)
		for name, s := range map[string]*tokensource.Stored{"load": p.stored, "update": newProcess(new(hangingUpdate), server).stored} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			got, err := s.Token(ctx, nil)
			if got != nil || err != context.DeadlineExceeded || time.Since(began) != time.Second {
				t.Errorf("%s: got %v and %v after %v, want DeadlineExceeded after 1s", name, got, err, time.Since(began))
			}
			cancel()
		}
	})
}

func TestAValueThatCannotBeUsedIsAnErrorEvenWithAGoodToken(t *testing.T) {
	store, server := new(storetest.Memory), new(family)
	p := newProcess(store, server)
	p.Token(t.Context(), nil)
	put(t, store, "key", "not ours")
	if got, err := p.stored.Token(t.Context(), nil); !isStoreError(err, "decode") {
		t.Errorf("got %v and %v, want a StoreError of decode", got, err)
	}
}

// A losingStore saves, loses the lock, and lets another process go on.
type losingStore struct {
	storetest.Memory
	lose func()
}

func (l *losingStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	lose := l.lose
	if lose == nil {
		return l.Memory.Update(ctx, key, fn)
	}
	l.lose = nil
	value, err := l.Load(ctx, key)
	if err != nil {
		return err
	}
	return fn(value, func(data []byte) error {
		l.Memory.Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save(data) })
		lose()
		return tokensource.ErrLocked
	})
}

func TestALoginWhoseSaveLostTheLockIsNotSavedOverWhatCameOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(losingStore), new(family)
		login := &Token{AccessToken: "login", RefreshToken: "refresh-0"}
		store.lose = func() {
			got, err := newProcess(store, server).stored.Token(t.Context(), login)
			wantToken(t, got, err, "access-1")
		}
		if err := newProcess(store, server).stored.Set(t.Context(), login); err != nil {
			t.Fatal(err)
		}
		if v := value(t, store); v.Token.Refresh_Token != "refresh-1" {
			t.Errorf("the store has %+v, want refresh-1, the only one that works", v)
		}
	})
}

func TestALoginIsInTheStoreBeforeItIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(slowStore)
		s := newProcess(store, nil).stored
		s.Source = tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
			if got := value(t, store).Token.Refresh_Token; got != old.RefreshToken {
				t.Errorf("%s is spent while the store has %s", old.RefreshToken, got)
			}
			return &Token{AccessToken: "a"}, nil
		})
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		s.Set(gone, &Token{RefreshToken: "first"}) // is left unsaved
		store.save = time.Second
		go s.Token(t.Context(), nil) // saves it first
		time.Sleep(500 * time.Millisecond)
		s.Set(t.Context(), &Token{RefreshToken: "second"})
		time.Sleep(10 * time.Second)
		got, err := s.Token(t.Context(), nil)
		wantToken(t, got, err, "a")
	})
}

func TestALoginThatMustBeSavedAgainTellsIfItIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		put(t, store, "key", `{"v":1,"gen":9000000000000,"token":{"access_token":"clock-ahead"}}`)
		store.save.Store(true)
		if err := newProcess(store, server).stored.Set(t.Context(), &Token{AccessToken: "login"}); !isStoreError(err, "save") {
			t.Errorf("got %v, want a StoreError of save", err)
		}
	})
}
