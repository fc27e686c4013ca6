//go:build unix

package pgstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Beginnings of the statements.
const (
	locks    = "INSERT INTO"
	saves    = "SET value"
	releases = "SET holder = NULL"
	loads    = "SELECT pg_is_in_recovery"
)

func TestAnAnswerThatIsLostIsAskedForAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, match := range []string{locks, saves, releases, loads} {
		store, l := throughLine(t, s)
		l.lose(match, 2, cut)
		calls := 0
		err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
			calls++
			return save([]byte("after " + match))
		})
		if err != nil || calls != 1 {
			t.Errorf("%q: got error %v, %d calls of fn; want nil, 1", match, err, calls)
		}
		stores.Want(t, store, "k", "after "+match)
		stores.Put(t, store, "k", "the lock is free")
		if n := l.pending(); n != 0 {
			t.Errorf("%q: got %d answers that were not lost; want 0", match, n)
		}
	}
}

// Whether the first save came through is unknown, until the next.
func TestASaveWhoseAnswersAreLostIsCalledAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, second := range []string{"after", "much later"} {
		store, l := throughLine(t, s)
		stores.SaveAgain(t, store, "k", second, func() { l.lose(saves, 3, cut) })
	}
}

func TestASaveWhoseAnswerIsLostDoesNotOverwriteOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		l.lose(saves, 1, func() error {
			s.exec("UPDATE tokentripper_tokens SET held_until = now()")
			stores.Put(t, s.store(), "k", "another's")
			return cut()
		})
		return save([]byte("after"))
	})
	if !errors.Is(err, tokensource.ErrLocked) || l.pending() != 0 {
		t.Errorf("got error %v; want ErrLocked", err)
	}
	stores.Want(t, store, "k", "another's")
}

// All tries at the lock got it, but none an answer.
func TestALockWhoseAnswersAreLostIsFree(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	l.lose(locks, 3, cut)
	stores.WantNoCall(t, store, "k")
	if n := l.pending(); n != 0 {
		t.Errorf("got %d answers that were not lost; want 0", n)
	}
	stores.Put(t, store, "k", "after")
}

func TestALockThatComesAfterItsCallerHasLeftIsFree(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	ctx, leave := context.WithCancel(stores.Background(t))
	l.lose(locks, 1, func() error { leave(); return nil })
	err := store.Update(ctx, "k", func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v; want context.Canceled", err)
	}
	stores.Put(t, store, "k", "after")
}

func TestTheContextEndsALoadAndASave(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	ctx, cancel := context.WithCancel(stores.Background(t))
	l.lose(loads, 1, func() error { cancel(); return cut() })
	if _, err := store.Load(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: got error %v; want context.Canceled", err)
	}
	ctx, cancel = context.WithCancel(stores.Background(t))
	defer cancel()
	l.lose(saves, 1, func() error { cancel(); return cut() })
	err := store.Update(ctx, "k", stores.Saves("after"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update: got error %v; want context.Canceled", err)
	}
	stores.Put(t, store, "k", "the lock is free")
}

// Otherwise the callers would not learn that Postgres is away before their own time was over.
func TestASilentServerIsAnError(t *testing.T) {
	t.Parallel() // it waits a lot
	store, l := throughLine(t, newServer(t))
	ctx := stores.Background(t)
	l.lose(loads, 3, func() error { return errSilence })
	if _, err := store.Load(ctx, "k"); err == nil || ctx.Err() != nil {
		t.Errorf("got error %v; want one before the context ends", err)
	}
}

// An administrator ends all sessions, those that are idle in the pool too.
func TestSessionsThatAreTerminatedAreReplaced(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := s.store()
	terminate := func() {
		s.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
	}
	stores.Put(t, store, "k", "before")
	terminate()
	stores.Want(t, store, "k", "before")
	err := store.Update(stores.Background(t), "k", func(value []byte, save func([]byte) error) error {
		terminate()
		if err := store.Update(stores.Background(t), "k", stores.Discard); !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("Update by another: got error %v; want ErrLocked", err)
		}
		terminate()
		defer terminate()
		return save([]byte("after"))
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
	stores.Want(t, store, "k", "after")
	stores.Put(t, store, "k", "the lock is free")
}
