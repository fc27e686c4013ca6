//go:build unix

package redisstore_test

import (
	"crypto/rand"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestContract(t *testing.T) {
	s := newServer(t)
	storetest.Run(t, places(s.dial))
}

func TestContractEncrypted(t *testing.T) {
	s, key := newServer(t), make([]byte, 32)
	rand.Read(key)
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		open := places(s.dial)(t)
		return func() tokensource.Store { return &tokensource.Encrypted{Store: open(), Keys: [][]byte{key}} }
	})
}

func TestContractInCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, newServer)
	t.Run("contract", func(t *testing.T) { storetest.Run(t, places(c.dial)) })
	t.Run("value and lock share a slot", func(t *testing.T) { oddKeys(t, c.dial(t)) })
}

// places returns what storetest.Run needs: each place is a prefix of its own,
// each store a client of its own.
func places(dial func(testing.TB) redis.UniversalClient) func(*testing.T) func() tokensource.Store {
	return func(t *testing.T) func() tokensource.Store {
		prefix := t.Name() + rand.Text()
		return func() tokensource.Store { return &redisstore.Store{Client: dial(t), Prefix: prefix} }
	}
}

func (s *server) dial(t testing.TB) redis.UniversalClient {
	return newClient(t, &redis.Options{Addr: s.addr(), PoolSize: 2})
}

// oddKeys uses keys that have braces themselves. A script cannot reach two slots.
func oddKeys(t *testing.T, client redis.UniversalClient) {
	store := &redisstore.Store{Client: client, Prefix: "a%b:"}
	keys := []string{"a", "{", "}", "{}", "{}a", "}{", "a{b}c", "{a}{b}", "%", "%7B", "{{", "a}b", "k:lock"}
	for _, key := range keys {
		stores.Put(t, store, key, "of "+key)
	}
	for _, key := range keys {
		stores.Want(t, store, key, "of "+key)
	}
}
