//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// throughProxy returns a store whose answers the proxy can lose. maxRetries is
// the client's: zero means three, -1 none. It waits for answers for ever.
func throughProxy(t *testing.T, s *server, maxRetries int) (*redisstore.Store, *proxy) {
	p := newProxy(t, s.addr())
	client := newClient(t, &redis.Options{Addr: p.addr(), MaxRetries: maxRetries, ReadTimeout: -1})
	store := &redisstore.Store{Client: client}
	put(t, store, "k", "before") // and the scripts are known to the server
	return store, p
}

func nothing() {}

func TestSaveWhoseAnswerIsLostIsRetriedByTheClient(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
		p.lose("+after", nothing)
		return save([]byte("after"))
	})
	if err != nil || p.pending() {
		t.Errorf("got error %v, an answer to lose: %t; want the value saved at the second try", err, p.pending())
	}
	want(t, store, "k", "after")
}

func TestSaveWhoseAnswerIsLostIsCalledAgain(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"after", "much later"} {
		s := newServer(t)
		store, p := throughProxy(t, s, -1)
		err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
			p.lose("+after", nothing)
			if err := save([]byte("after")); err == nil || errors.Is(err, tokensource.ErrLocked) {
				t.Errorf("first save: got error %v, want one of the network", err)
			}
			if err := save([]byte(second)); err != nil {
				t.Errorf("save of %q: got error %v", second, err)
			}
			return save([]byte("at last"))
		})
		if err != nil {
			t.Errorf("got error %v, want none", err)
		}
		want(t, store, "k", "at last")
	}
}

func TestSaveWhoseAnswerIsLostDoesNotOverwriteOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	others := s.client()
	err := store.Update(background(t), "k", func(_ []byte, save func([]byte) error) error {
		p.lose("+after", func() {
			others.Del(context.Background(), lockName)
			put(t, s.store(), "k", "another's")
		})
		return save([]byte("after"))
	})
	if !errors.Is(err, tokensource.ErrLocked) || p.pending() {
		t.Errorf("got error %v, want ErrLocked", err)
	}
	want(t, store, "k", "another's")
}

// The client tries again, and finds its own lock.
func TestLockWhoseAnswerIsLostIsTakenByTheClientsSecondTry(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	p.lose("holder", nothing)
	put(t, store, "k", "after")
	if p.pending() {
		t.Error("no answer was lost")
	}
	put(t, store, "k", "later")
}

func TestLockWhoseAnswerIsLostIsFreedSoon(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, -1)
	p.lose("holder", nothing)
	err := store.Update(background(t), "k", func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if err == nil || errors.Is(err, tokensource.ErrLocked) || p.pending() {
		t.Errorf("got error %v, want one of the network", err)
	}
	s.eventually(func() error { return s.store().Update(background(t), "k", discard) })
}

func discard([]byte, func([]byte) error) error { return nil }

// The client waits for the answer, whatever becomes of the context.
func TestContextEndsEveryCall(t *testing.T) {
	t.Parallel()
	for match, call := range map[string]func(context.Context, *redisstore.Store) error{
		"getex": func(ctx context.Context, s *redisstore.Store) error {
			_, err := s.Load(ctx, "k")
			return err
		},
		"holder": func(ctx context.Context, s *redisstore.Store) error {
			return s.Update(ctx, "k", discard)
		},
		"+after": func(ctx context.Context, s *redisstore.Store) error {
			return s.Update(ctx, "k", func(_ []byte, save func([]byte) error) error { return save([]byte("after")) })
		},
	} {
		s := newServer(t)
		store, p := throughProxy(t, s, 0)
		ctx, cancel := context.WithCancel(background(t))
		answer := make(chan struct{})
		p.lose(match, func() {
			cancel()
			<-answer
		})
		if err := call(ctx, store); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: got error %v, want context.Canceled", match, err)
		}
		close(answer)
		s.eventually(func() error { return s.store().Update(background(t), "k", discard) })
	}
}

// Otherwise the callers would not learn that Redis is away before their own
// time was over.
func TestSilentServerIsAnError(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := &redisstore.Store{Client: newClient(t, &redis.Options{Addr: s.addr(), ReadTimeout: -1})}
	put(t, store, "k", "before")
	s.signal(syscall.SIGSTOP)
	defer s.signal(syscall.SIGCONT)
	ctx := background(t)
	if _, err := store.Load(ctx, "k"); err == nil || ctx.Err() != nil {
		t.Errorf("got error %v, want one before the context ends", err)
	}
}
