//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// Names in Redis of the key "k".
const valueName, lockName = "{k}", "{k}:lock"

func TestLockOutlivesTheContext(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, life := range []time.Duration{time.Minute, 10 * time.Second, 0} {
		ctx, deadline := context.Background(), time.Now().Add(29*time.Second)
		if life > 0 {
			var cancel func()
			ctx, cancel = context.WithTimeout(ctx, life)
			defer cancel()
			deadline, _ = ctx.Deadline()
		}
		err := s.store().Update(ctx, "k", func([]byte, func([]byte) error) error {
			before := time.Now()
			left, err := s.client().PTTL(ctx, lockName).Result()
			if end := before.Add(left); err != nil || end.Before(deadline) || end.After(deadline.Add(10*time.Second)) {
				t.Errorf("the lock lives for %v, error %v; want it to end soon after the context, %v", left, err, time.Until(deadline))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestLostLockSavesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, lose := range map[string]func(*server) error{
		"deleted": func(s *server) error { return s.client().Del(ctx, lockName).Err() },
		"flushed": func(s *server) error { return s.client().FlushAll(ctx).Err() },
		"taken":   func(s *server) error { return s.client().Set(ctx, lockName, "another's", 0).Err() },
		"used by another": func(s *server) error {
			s.client().Del(ctx, lockName)
			return s.store().Update(ctx, "k", func(value []byte, save func([]byte) error) error { return save(value) })
		},
		"expired": func(s *server) error {
			defer s.awaitExpiry(lockName)
			return s.client().PExpire(ctx, lockName, time.Millisecond).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			stores.Put(t, s.store(), "k", "before")
			unsaved(t, s, func() error { return lose(s) })
		})
	}
}

// awaitExpiry waits until the name is gone.
func (s *server) awaitExpiry(name string) {
	s.t.Helper()
	client := s.client()
	s.eventually(func() error {
		if n, err := client.Exists(context.Background(), name).Result(); err != nil || n != 0 {
			return fmt.Errorf("%s is still there, error %v", name, err)
		}
		return nil
	})
}

func TestValueChangedByOthersIsNotOverwritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, change := range map[string]func(*redis.Client) error{
		"set":     func(c *redis.Client) error { return c.Set(ctx, valueName, "another's", 0).Err() },
		"emptied": func(c *redis.Client) error { return c.Set(ctx, valueName, "", 0).Err() },
		"deleted": func(c *redis.Client) error { return c.Del(ctx, valueName).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			stores.Put(t, s.store(), "k", "before")
			unsaved(t, s, func() error { return change(s.client()) })
		})
	}
	t.Run("new", func(t *testing.T) {
		s := newServer(t)
		unsaved(t, s, func() error { return s.client().Set(ctx, valueName, "another's", 0).Err() })
	})
}

func TestValuePutBackByOthersIsNotOverwritten(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := s.store()
	stores.Put(t, store, "k", "before")
	err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		if err := save([]byte("one")); err != nil {
			t.Error(err)
		}
		s.client().Set(context.Background(), valueName, "before", 0)
		return save([]byte("two"))
	})
	if !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v, want ErrLocked", err)
	}
	stores.Want(t, store, "k", "before")
}

// unsaved checks that a save after disturb replaces nothing, nor what is there
// of a lock.
func unsaved(t *testing.T, s *server, disturb func() error) {
	t.Helper()
	ctx, client := context.Background(), s.client()
	content := func() string {
		return fmt.Sprint(client.Get(ctx, valueName).Val(), client.Exists(ctx, valueName).Val())
	}
	var before, lock string
	err := s.store().Update(ctx, "k", func(_ []byte, save func([]byte) error) error {
		mine := client.Get(ctx, lockName).Val()
		if err := disturb(); err != nil {
			t.Fatal(err)
		}
		before, lock = content(), client.Get(ctx, lockName).Val()
		if lock == mine {
			lock = "" // to be removed
		}
		return save([]byte("ours"))
	})
	if !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v, want ErrLocked", err)
	}
	if after := content(); after != before {
		t.Errorf("got value %s, want %s", after, before)
	}
	if after := client.Get(ctx, lockName).Val(); after != lock {
		t.Errorf("got lock %q, want %q", after, lock)
	}
}

func TestTTLBeginsWithEachSave(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ctx, client, store := context.Background(), s.client(), s.store()
	store.TTL = time.Hour
	stores.Put(t, store, "k", "one")
	client.PExpire(ctx, valueName, time.Minute)
	stores.Want(t, store, "k", "one")
	if ttl := client.PTTL(ctx, valueName).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("got TTL %v after a load, want what was left", ttl)
	}
	stores.Put(t, store, "k", "one")
	if ttl := client.PTTL(ctx, valueName).Val(); ttl <= time.Minute || ttl > time.Hour {
		t.Errorf("got TTL %v after a save, want an hour", ttl)
	}
	store.TTL = time.Nanosecond
	stores.Put(t, store, "k", "two")
	s.awaitExpiry(valueName)
	store.TTL = 0
	stores.Put(t, store, "k", "three")
	if ttl := client.PTTL(ctx, valueName).Val(); ttl != -1 {
		t.Errorf("got TTL %v without Store.TTL, want none", ttl)
	}
}

// The server refuses what an Update needs: that comes out before fn is called,
// not when a refresh token has been spent.
func TestStoreThatCannotSaveDoesNotCallFn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	master := newServer(t)
	for name, spoil := range map[string]func(*redis.Client) error{
		"replica":       func(c *redis.Client) error { return c.ReplicaOf(ctx, "127.0.0.1", master.port).Err() },
		"out of memory": func(c *redis.Client) error { return c.ConfigSet(ctx, "maxmemory", "1").Err() },
		"no replicas":   func(c *redis.Client) error { return c.ConfigSet(ctx, "min-replicas-to-write", "1").Err() },
		"no password":   func(c *redis.Client) error { return c.ConfigSet(ctx, "requirepass", "secret").Err() },
		"no scripts":    func(c *redis.Client) error { return c.Do(ctx, "acl", "setuser", "default", "-@scripting").Err() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if err := spoil(s.client()); err != nil {
				t.Fatal(err)
			}
			stores.WantNoCall(t, s.store(), "k")
		})
	}
}

func TestReplicaIsNotRead(t *testing.T) {
	t.Parallel()
	s, master := newServer(t), newServer(t)
	if err := s.client().ReplicaOf(context.Background(), "127.0.0.1", master.port).Err(); err != nil {
		t.Fatal(err)
	}
	value, err := s.store().Load(stores.Background(t), "k")
	if !redis.HasErrorPrefix(err, "READONLY") {
		t.Errorf("got value %q, error %v; want READONLY", value, err)
	}
}

func TestErrorsHoldNoValue(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := newClient(t, &redis.Options{Addr: s.addr(), MaxRetries: -1, DialerRetries: 1})
	store := &redisstore.Store{Client: client}
	stores.Put(t, store, "k", "secret-1")
	var saving [2]error
	updating := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		s.client().Set(context.Background(), valueName, "secret-2", 0)
		saving[0] = save([]byte("secret-3"))
		client.AddHook(hook(ignorant))
		saving[1] = save([]byte("secret-3"))
		s.signal(syscall.SIGKILL)
		return save([]byte("secret-4"))
	})
	_, loading := store.Load(stores.Background(t), "k")
	locking := store.Update(stores.Background(t), "k", nil)
	for _, err := range []error{saving[0], saving[1], updating, loading, locking} {
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "redisstore: ") {
			t.Errorf("got error %v, want one of redisstore without a value", err)
		}
	}
}

// An ignorant server knows no scripts, and says so in Redis's words.
func ignorant(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
	if cmd.Name() != "eval" {
		return next(ctx, cmd)
	}
	cmd.SetErr(fmt.Errorf("ERR unknown command 'eval', with args beginning with: %v", cmd.Args()))
	return cmd.Err()
}

// A hook stands around each command.
type hook func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { return h(ctx, cmd, next) }
}

func (hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestStoreThatIsNotSetUp(t *testing.T) {
	t.Parallel()
	client := newClient(t, &redis.Options{Addr: "127.0.0.1:1"})
	for _, store := range []*redisstore.Store{{}, {Client: client, Prefix: "{a}"}} {
		if _, err := store.Load(stores.Background(t), "k"); err == nil {
			t.Errorf("%+v: Load: got no error", store)
		}
		if err := store.Update(stores.Background(t), "k", nil); err == nil {
			t.Errorf("%+v: Update: got no error", store)
		}
	}
	if _, err := (&redisstore.Store{Client: client}).Load(stores.Background(t), ""); err == nil {
		t.Error("empty key: got no error")
	}
}
