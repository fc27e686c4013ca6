//go:build unix

package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// A cluster is servers, the masters first.
type cluster []*server

// A starter is newServer or newFronted.
type starter func(t testing.TB, args ...string) *server

func newCluster(t testing.TB, masters int, start starter) cluster {
	t.Helper()
	c, ctx := make(cluster, masters), context.Background()
	for i := range c {
		c[i] = start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
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
	if err := s.client().ClusterMeet(context.Background(), "127.0.0.1", c[0].port).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// has checks what the server tells of itself.
func (s *server) has(section string, lines ...string) error {
	info := s.info(section)
	for _, line := range lines {
		if !strings.Contains(info, line) {
			return fmt.Errorf("there is no %s in %s", line, info)
		}
	}
	return nil
}

func (s *server) info(section string) string {
	client, ctx := redis.NewClient(&redis.Options{Addr: s.addr()}), context.Background()
	defer client.Close()
	switch section {
	case "cluster":
		return client.ClusterInfo(ctx).Val()
	case "nodes":
		return client.ClusterNodes(ctx).Val()
	}
	return client.Info(ctx, section).Val()
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

// The client reads from replicas, and the one that there is has stopped.
func TestClusterClientReadsTheMaster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, newServer).replicated(newServer)
	replica := c[1]
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{c[0].addr()}, ReadOnly: true, ReadTimeout: time.Minute})
	defer client.Close()
	store := &redisstore.Store{Client: client}
	stores.Put(t, store, "k", "before")
	replica.signal(syscall.SIGSTOP)
	defer replica.signal(syscall.SIGCONT)
	stores.Put(t, store, "k", "after")
	stores.Want(t, store, "k", "after")
}

// replicated returns the cluster with a replica for each master, when all know.
func (c cluster) replicated(start starter) cluster {
	ctx, masters := context.Background(), c
	for _, master := range masters {
		s := start(master.t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
		c.meet(s)
		id := master.client().ClusterMyID(ctx).Val()
		s.eventually(func() error { return s.client().ClusterReplicate(ctx, id).Err() })
		c = append(c, s)
	}
	for _, s := range c {
		s.eventually(func() error { return c.settled(s) })
	}
	return c
}

// settled reports what is amiss in a cluster of masters with a replica each, as s has it.
func (c cluster) settled(s *server) error {
	nodes := s.info("nodes")
	if strings.Count(nodes, " connected") != len(c) || strings.Contains(nodes, "fail") || strings.Count(nodes, "slave ") != len(c)/2 {
		return fmt.Errorf("not all are known and connected: %s", nodes)
	}
	if s.has("replication", "role:master") == nil {
		return s.has("replication", "state=online")
	}
	return s.has("replication", "master_link_status:up")
}

// master returns the one that has the only value.
func (c cluster) master() *server {
	for _, s := range c {
		s.eventually(func() error { return c.settled(s) })
	}
	for _, s := range c {
		if s.has("replication", "role:master") == nil && s.has("keyspace", "db0:") == nil {
			return s
		}
	}
	c[0].t.Fatal("no master has a value")
	return nil
}

func (c cluster) replaced(killed *server) {
	other := c[0]
	if other == killed {
		other = c[1]
	}
	other.eventually(func() error {
		masters := 0
		for _, s := range c {
			if s != killed && s.has("replication", "role:master") == nil {
				masters++
			}
		}
		if masters != len(c)/2 {
			return fmt.Errorf("there are %d masters", masters)
		}
		return nil
	})
	killed.restart()
}

func (c cluster) fronted() []*server { return c }

func TestFailoverInAClusterLogsNobodyOut(t *testing.T) {
	t.Parallel()
	failOver(t, newCluster(t, 3, newFronted).replicated(newFronted), 1, 8*time.Second)
}
