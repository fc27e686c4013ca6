//go:build unix

package pgstore_test

import (
	"context"
	"errors"
	"testing"

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
		err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
			calls++
			return save([]byte("after " + match))
		})
		if err != nil || calls != 1 {
			t.Errorf("%q: got error %v, %d calls of fn; want nil, 1", match, err, calls)
		}
		want(t, store, "k", "after "+match)
		put(t, store, "k", "the lock is free")
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
		err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
			l.lose(saves, 3, cut)
			if err := save([]byte("after")); err == nil || errors.Is(err, tokensource.ErrLocked) {
				t.Errorf("first save: got error %v; want one of the network", err)
			}
			if err := save([]byte(second)); err != nil {
				t.Errorf("save of %q: got error %v; want nil", second, err)
			}
			return save([]byte("at last"))
		})
		if err != nil {
			t.Errorf("got error %v; want nil", err)
		}
		want(t, store, "k", "at last")
	}
}

func TestASaveWhoseAnswerIsLostDoesNotOverwriteOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
		l.lose(saves, 1, func() error {
			s.exec("UPDATE tokentripper_tokens SET held_until = now()")
			put(t, s.store(), "k", "another's")
			return cut()
		})
		return save([]byte("after"))
	})
	if !errors.Is(err, tokensource.ErrLocked) || l.pending() != 0 {
		t.Errorf("got error %v; want ErrLocked", err)
	}
	want(t, store, "k", "another's")
}

// All tries at the lock got it, but none an answer.
func TestALockWhoseAnswersAreLostIsFree(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	l.lose(locks, 3, cut)
	err := store.Update(background(t), "k", func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if err == nil || errors.Is(err, tokensource.ErrLocked) || l.pending() != 0 {
		t.Errorf("got error %v; want one of the network", err)
	}
	put(t, store, "k", "after")
}

func TestALockThatComesAfterItsCallerHasLeftIsFree(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	ctx, leave := context.WithCancel(background(t))
	l.lose(locks, 1, func() error { leave(); return nil })
	err := store.Update(ctx, "k", func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v; want context.Canceled", err)
	}
	put(t, store, "k", "after")
}

func TestTheContextEndsALoadAndASave(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, l := throughLine(t, s)
	ctx, cancel := context.WithCancel(background(t))
	l.lose(loads, 1, func() error { cancel(); return cut() })
	if _, err := store.Load(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: got error %v; want context.Canceled", err)
	}
	ctx, cancel = context.WithCancel(background(t))
	defer cancel()
	l.lose(saves, 1, func() error { cancel(); return cut() })
	err := store.Update(ctx, "k", func(_ []byte, save func([]byte) error) error { return save([]byte("after")) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update: got error %v; want context.Canceled", err)
	}
	put(t, store, "k", "the lock is free")
}

// Otherwise the callers would not learn that Postgres is away before their own time was over.
func TestASilentServerIsAnError(t *testing.T) {
	t.Parallel() // it waits a lot
	store, l := throughLine(t, newServer(t))
	ctx := background(t)
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
	put(t, store, "k", "before")
	terminate()
	want(t, store, "k", "before")
	err := store.Update(background(t), "k", func(value []byte, save func([]byte) error) error {
		terminate()
		if err := store.Update(background(t), "k", discard); !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("Update by another: got error %v; want ErrLocked", err)
		}
		terminate()
		defer terminate()
		return save([]byte("after"))
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
	want(t, store, "k", "after")
	put(t, store, "k", "the lock is free")
}

func discard([]byte, func([]byte) error) error { return nil }
