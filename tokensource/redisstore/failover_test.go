//go:build unix

package redisstore_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

var (
	kills       = flag.Int("kills", 1, "masters that each test of failovers kills")
	acknowledge = flag.Int("acknowledge", -1, "Store.Replicas in tests of failovers; -1: the number of replicas of a master")
)

// A topology is servers of which one has the value, as the master, until it is killed.
type topology interface {
	dial(testing.TB) redis.UniversalClient
	master() *server    // waits until it has all its replicas
	replaced(*server)   // waits until a killed one has a successor, and starts it again
	fronted() []*server // all
}

// failOver has 8 processes rotate a token while masters are killed, each at a random
// moment within 100 ms of a rotation. What masters send to replicas is 0 to 100 ms late.
func failOver(t *testing.T, top topology, replicas int, within time.Duration) {
	if *acknowledge >= 0 {
		replicas = *acknowledge
	}
	for _, s := range top.fronted() {
		s.front.delay.Store(moment)
	}
	srv, processes := tokentest.NewServer(t), make([]*process, 9)
	source := refreshToken(srv)
	for i := range processes {
		store := &redisstore.Store{Client: top.dial(t), Prefix: "test:", Replicas: replicas}
		processes[i] = newProcessWith(store, source)
	}
	newcomer, processes := processes[0], processes[1:]
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Fatal(err)
	}
	for kill := range *kills {
		outage, err := killOne(t, srv, processes, top)
		if err != nil {
			t.Fatalf("kill %d: got error %v, want a token for everybody", kill+1, err)
		}
		if outage > within && *kills > 1 {
			t.Errorf("kill %d: got an outage of %v, want at most %v", kill+1, outage, within)
		}
	}
	srv.RevokeAccess()
	if err := newcomer.goodToken(minute(t), srv); err != nil {
		t.Errorf("a process that knows only the store: got error %v, want a token", err)
	}
	wantReuses(t, srv, 0)
	t.Logf("%d kills, %d rotations", *kills, srv.Counts().Rotations)
}

func moment() time.Duration { return rand.N(100 * time.Millisecond) }

// killOne returns how long it took until all had one more good token.
func killOne(t *testing.T, srv *tokentest.Server, processes []*process, top topology) (outage time.Duration, err error) {
	master := top.master()
	var killed, back time.Time
	err = whileRefreshing(t, srv, processes, func(wait func()) {
		wait()
		<-time.After(moment())
		killed = time.Now()
		master.signal(syscall.SIGKILL)
		top.replaced(master)
		back = time.Now()
	})
	outage = time.Since(killed)
	t.Logf("an outage of %v; the killed server was back after %v", outage.Round(time.Millisecond), back.Sub(killed).Round(time.Millisecond))
	return outage, err
}

// A guarded is a master and its replicas, which a sentinel guards.
type guarded struct {
	servers  []*server
	sentinel *server
}

func newGuarded(t testing.TB, replicas int) *guarded {
	t.Helper()
	g := &guarded{servers: []*server{newFronted(t)}}
	first := g.servers[0]
	for range replicas {
		g.servers = append(g.servers, newFronted(t, "--replicaof", "127.0.0.1", first.front.port()))
	}
	g.awaitReplicas(first)
	config := "sentinel monitor m 127.0.0.1 " + first.front.port() + " 1\n" +
		"sentinel down-after-milliseconds m 2000\n" +
		"sentinel failover-timeout m 3000\n"
	g.sentinel = (&server{t: t, dir: tempDir(t), config: config}).begin()
	return g
}

func (g *guarded) fronted() []*server { return g.servers }

func (g *guarded) dial(t testing.TB) redis.UniversalClient {
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{g.sentinel.addr()}})
	t.Cleanup(func() { client.Close() })
	return client
}

func (g *guarded) awaitReplicas(master *server) {
	master.t.Helper()
	master.eventually(func() error {
		if n := strings.Count(master.info("replication"), "state=online"); n != len(g.servers)-1 {
			return fmt.Errorf("%d replicas are attached", n)
		}
		return nil
	})
}

// current returns the master as the sentinel has it.
func (g *guarded) current() *server {
	client := redis.NewSentinelClient(&redis.Options{Addr: g.sentinel.addr()})
	defer client.Close()
	addr, _ := client.GetMasterAddrByName(context.Background(), "m").Result()
	for _, s := range g.servers {
		if len(addr) == 2 && s.front.port() == addr[1] {
			return s
		}
	}
	return nil
}

// master waits until the sentinel would find a successor, too.
func (g *guarded) master() *server {
	client := redis.NewSentinelClient(&redis.Options{Addr: g.sentinel.addr()})
	defer client.Close()
	g.sentinel.eventually(func() error {
		replicas, err := client.Replicas(context.Background(), "m").Result()
		good := 0
		for _, r := range replicas {
			if r["flags"] == "slave" && r["master-link-status"] == "ok" {
				good++
			}
		}
		if good != len(g.servers)-1 {
			return fmt.Errorf("the sentinel knows %d good replicas, error %v: %v", good, err, replicas)
		}
		return nil
	})
	master := g.current()
	g.awaitReplicas(master)
	return master
}

func (g *guarded) replaced(killed *server) {
	g.sentinel.eventually(func() error {
		if s := g.current(); s == nil || s == killed {
			return fmt.Errorf("the master is %v", s)
		}
		return nil
	})
	killed.restart("--replicaof", "127.0.0.1", g.current().front.port())
}

func TestFailoverBySentinelLogsNobodyOut(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			t.Parallel()
			failOver(t, newGuarded(t, replicas), replicas, 15*time.Second)
		})
	}
}
