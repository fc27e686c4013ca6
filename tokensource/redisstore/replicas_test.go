//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// newReplicated starts a master and a replica of it.
func newReplicated(t testing.TB, args ...string) (master, replica *server) {
	t.Helper()
	master = newFronted(t, args...)
	replica = newServer(t, "--replicaof", "127.0.0.1", master.front.port())
	master.eventually(func() error { return master.has("replication", "state=online") })
	return master, replica
}

// replicated returns a store whose writes must be on one replica.
func (s *server) replicated() *redisstore.Store {
	return &redisstore.Store{Client: s.client(), Replicas: 1}
}

func TestContractWithReplicas(t *testing.T) {
	s, _ := newReplicated(t)
	open := places(s.dial)
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		plain := open(t)
		return func() tokensource.Store {
			store := plain().(*redisstore.Store)
			store.Replicas = 1
			return store
		}
	})
}

func TestLockAndValueAreOnTheReplicaBeforeTheyCount(t *testing.T) {
	t.Parallel()
	s, replica := newReplicated(t)
	s.front.delay.Store(later(50 * time.Millisecond))
	ctx, there, store := context.Background(), replica.client(), s.replicated()
	for range 5 {
		err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
			if there.Exists(ctx, lockName).Val() != 1 {
				t.Error("the replica has no lock when fn is called")
			}
			value := time.Now().String()
			err := save([]byte(value))
			if got := there.Get(ctx, valueName).Val(); got != value {
				t.Errorf("the replica has %q after the save, want %q", got, value)
			}
			return err
		})
		if n := there.Exists(ctx, lockName).Val(); err != nil || n != 0 {
			t.Errorf("got error %v, and %d locks on the replica after Update, want none", err, n)
		}
	}
}

func wantReplicasError(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*redisstore.ReplicasError](err)
	if !ok || *e != (redisstore.ReplicasError{Required: 1}) || errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v, want a ReplicasError: 0 of 1", err)
	}
}

func TestWithoutReplicasFnIsNotCalled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	update := func() error {
		return s.replicated().Update(stores.Background(t), "k", func([]byte, func([]byte) error) error {
			t.Error("fn was called")
			return nil
		})
	}
	wantReplicasError(t, update())
	s.client().Set(context.Background(), lockName, "another's", 0)
	wantReplicasError(t, update())
}

func TestSaveThatNoReplicaAcknowledgesIsCalledAgain(t *testing.T) {
	t.Parallel()
	s, replica := newReplicated(t)
	err := s.replicated().Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		replica.signal(syscall.SIGSTOP)
		wantReplicasError(t, save([]byte("one")))
		replica.signal(syscall.SIGCONT)
		return save([]byte("two"))
	})
	if err != nil {
		t.Errorf("got error %v, want none once the replica is there", err)
	}
	stores.Want(t, s.store(), "k", "two")
}

// Between a failover and the return of the server that failed no replica is attached.
func TestWithoutReplicasNothingIsExchangedAndAGoodTokenIsKept(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	source := refreshToken(srv)
	if err := newProcess(s, source).goodToken(minute(t), srv); err != nil {
		t.Fatal(err)
	}
	store := s.replicated()
	store.Prefix = "test:"
	p := newProcessWith(store, source)
	before := srv.Counts().TokenRequests
	old, err := p.stored.Token(minute(t), nil)
	if err != nil || srv.Check(old.AccessToken) != nil {
		t.Errorf("got error %v, want the good token", err)
	}
	_, err = p.stored.Token(minute(t), old)
	if _, ok := errors.AsType[*tokensource.StoreError](err); !ok {
		t.Errorf("got error %v, want a StoreError", err)
	}
	wantReplicasError(t, err)
	if n := srv.Counts().TokenRequests - before; n != 0 {
		t.Errorf("got %d token requests without replicas, want none", n)
	}
}

// min-replicas-to-write takes a replica for attached that has not got what is written.
func TestMinReplicasToWriteLosesWhatReplicasDoesNot(t *testing.T) {
	t.Parallel()
	s, replica := newReplicated(t, "--min-replicas-to-write", "1")
	stores.Put(t, s.replicated(), "k", "before")
	s.front.delay.Store(later(forever))
	stores.Put(t, s.store(), "k", "lost")
	wantReplicasError(t, s.replicated().Update(stores.Background(t), "k", stores.Discard))
	s.signal(syscall.SIGKILL)
	if err := replica.client().ReplicaOf(context.Background(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	stores.Want(t, replica.store(), "k", "before")
}

// The lock is on the replica when the master dies. The replica becomes the master, and
// frees it long before it would expire.
func TestUnlockOutlivesTheMaster(t *testing.T) {
	t.Parallel()
	s, replica := newReplicated(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	err := s.replicated().Update(ctx, "k", func([]byte, func([]byte) error) error {
		s.signal(syscall.SIGKILL)
		s.front.server.Store(replica.addr())
		return replica.client().ReplicaOf(ctx, "NO", "ONE").Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	replica.awaitExpiry(lockName)
}

func TestReplicasNeedAClientThatCanWaitForThem(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": "127.0.0.1:1"}})
	defer ring.Close()
	store := &redisstore.Store{Client: ring, Replicas: 1}
	_, err := store.Load(stores.Background(t), "k")
	if got, want := fmt.Sprint(err), "redisstore: Store.Replicas needs a *redis.Client or a *redis.ClusterClient, Store.Client is a *redis.Ring"; got != want {
		t.Errorf("got error %q, want %q", got, want)
	}
}
