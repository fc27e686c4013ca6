//go:build unix

package redisstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
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
	t.Parallel() // it waits a lot
	c := newCluster(t, 3)
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

// A cluster is of masters, which have no replicas.
type cluster []*server

func newCluster(t testing.TB, masters int) cluster {
	t.Helper()
	c, ctx := make(cluster, masters), context.Background()
	for i := range c {
		c[i] = newServer(t, "--cluster-enabled", "yes")
		first, last := i*16384/masters, (i+1)*16384/masters-1
		if err := c[i].client().ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
			t.Fatal(err)
		}
		c.meet(c[i])
	}
	for _, s := range c {
		s.eventually(func() error { return s.has("cluster", "cluster_state:ok", fmt.Sprint("cluster_known_nodes:", masters)) })
	}
	return c
}

// meet makes another server known in the cluster.
func (c cluster) meet(s *server) {
	s.t.Helper()
	if err := s.client().ClusterMeet(context.Background(), "127.0.0.1", strconv.Itoa(c[0].port)).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// has checks what the server tells of itself.
func (s *server) has(section string, lines ...string) error {
	client, ctx := s.client(), context.Background()
	info := client.Info(ctx, section).Val()
	if section == "cluster" {
		info = client.ClusterInfo(ctx).Val()
	}
	for _, line := range lines {
		if !strings.Contains(info, line) {
			return fmt.Errorf("there is no %s in %s", line, info)
		}
	}
	return nil
}

func (c cluster) dial(t testing.TB) redis.UniversalClient {
	var addrs []string
	for _, s := range c {
		addrs = append(addrs, s.addr())
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, PoolSize: 2})
	t.Cleanup(func() { client.Close() })
	return client
}

// oddKeys uses keys that have braces themselves. A script cannot reach two slots.
func oddKeys(t *testing.T, client redis.UniversalClient) {
	store := &redisstore.Store{Client: client, Prefix: "a%b:"}
	keys := []string{"a", "{", "}", "{}", "{}a", "}{", "a{b}c", "{a}{b}", "%", "%7B", "{{", "a}b", "k:lock"}
	for _, key := range keys {
		put(t, store, key, "of "+key)
	}
	for _, key := range keys {
		want(t, store, key, "of "+key)
	}
}

// The client reads from replicas, and the one that there is has stopped.
func TestClusterClientReadsTheMaster(t *testing.T) {
	t.Parallel() // it waits a lot
	c, replica := newCluster(t, 1), newServer(t, "--cluster-enabled", "yes")
	c.replicate(replica)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{c[0].addr()}, ReadOnly: true, ReadTimeout: time.Minute})
	defer client.Close()
	store := &redisstore.Store{Client: client}
	put(t, store, "k", "before")
	replica.signal(syscall.SIGSTOP)
	defer replica.signal(syscall.SIGCONT)
	put(t, store, "k", "after")
	want(t, store, "k", "after")
}

// replicate makes s a replica of the first master, and waits until all know.
func (c cluster) replicate(s *server) {
	s.t.Helper()
	ctx, master, replica := context.Background(), c[0].client(), s.client()
	c.meet(s)
	id := master.ClusterMyID(ctx).Val()
	s.eventually(func() error { return replica.ClusterReplicate(ctx, id).Err() })
	s.eventually(func() error { return s.has("replication", "role:slave", "master_link_status:up") })
	s.eventually(func() error {
		if nodes, err := master.ClusterNodes(ctx).Result(); err != nil || !strings.Contains(nodes, " slave ") {
			return fmt.Errorf("the master knows of no replica: %s, error %v", nodes, err)
		}
		return nil
	})
}
