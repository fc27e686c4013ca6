//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// throughProxy returns a store whose answers the proxy can lose. maxRetries is
// the client's: zero means three, -1 none. It waits for answers for ever.
func throughProxy(t *testing.T, s *server, maxRetries int) (*redisstore.Store, *proxy) {
	p := newProxy(t, s.addr())
	client := newClient(t, &redis.Options{Addr: p.addr(), MaxRetries: maxRetries, ReadTimeout: -1})
	store := &redisstore.Store{Client: client}
	stores.Put(t, store, "k", "before") // and the scripts are known to the server
	return store, p
}

func nothing() {}

func TestSaveWhoseAnswerIsLostIsRetriedByTheClient(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		p.lose("+after", nothing)
		return save([]byte("after"))
	})
	if err != nil || p.pending() {
		t.Errorf("got error %v, an answer to lose: %t; want the value saved at the second try", err, p.pending())
	}
	stores.Want(t, store, "k", "after")
}

func TestSaveWhoseAnswerIsLostIsCalledAgain(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"after", "much later"} {
		s := newServer(t)
		store, p := throughProxy(t, s, -1)
		stores.SaveAgain(t, store, "k", second, func() { p.lose("+after", nothing) })
	}
}

func TestSaveWhoseAnswerIsLostDoesNotOverwriteOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	others := s.client()
	err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		p.lose("+after", func() {
			others.Del(context.Background(), lockName)
			stores.Put(t, s.store(), "k", "another's")
		})
		return save([]byte("after"))
	})
	if !errors.Is(err, tokensource.ErrLocked) || p.pending() {
		t.Errorf("got error %v, want ErrLocked", err)
	}
	stores.Want(t, store, "k", "another's")
}

// The client tries again, and finds its own lock.
func TestLockWhoseAnswerIsLostIsTakenByTheClientsSecondTry(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, 0)
	p.lose("holder", nothing)
	stores.Put(t, store, "k", "after")
	if p.pending() {
		t.Error("no answer was lost")
	}
	stores.Put(t, store, "k", "later")
}

func TestLockWhoseAnswerIsLostIsFreedSoon(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store, p := throughProxy(t, s, -1)
	p.lose("holder", nothing)
	stores.WantNoCall(t, store, "k")
	if p.pending() {
		t.Error("no answer was lost")
	}
	s.eventually(func() error { return s.store().Update(stores.Background(t), "k", stores.Discard) })
}

// The client waits for the answer, whatever becomes of the context.
func TestContextEndsEveryCall(t *testing.T) {
	t.Parallel()
	for match, call := range map[string]func(context.Context, *redisstore.Store) error{
		"getex": func(ctx context.Context, s *redisstore.Store) error {
			_, err := s.Load(ctx, "k")
			return err
		},
		"holder": func(ctx context.Context, s *redisstore.Store) error {
			return s.Update(ctx, "k", stores.Discard)
		},
		"+after": func(ctx context.Context, s *redisstore.Store) error {
			return s.Update(ctx, "k", stores.Saves("after"))
		},
	} {
		s := newServer(t)
		store, p := throughProxy(t, s, 0)
		ctx, cancel := context.WithCancel(stores.Background(t))
		answer := make(chan struct{})
		p.lose(match, func() {
			cancel()
			<-answer
		})
		if err := call(ctx, store); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: got error %v, want context.Canceled", match, err)
		}
		close(answer)
		s.eventually(func() error { return s.store().Update(stores.Background(t), "k", stores.Discard) })
	}
}

// Otherwise the callers would not learn that Redis is away before their own
// time was over.
func TestSilentServerIsAnError(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := &redisstore.Store{Client: newClient(t, &redis.Options{Addr: s.addr(), ReadTimeout: -1})}
	stores.Put(t, store, "k", "before")
	s.signal(syscall.SIGSTOP)
	defer s.signal(syscall.SIGCONT)
	ctx := stores.Background(t)
	if _, err := store.Load(ctx, "k"); err == nil || ctx.Err() != nil {
		t.Errorf("got error %v, want one before the context ends", err)
	}
}
