//go:build unix

package redisstore_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

var lossesFlag = flag.Int("losses", 1, "how often Redis loses what it had, in each way; with more than 1, also under 64 processes")

// A loss is a way in which Redis loses what it had. It is given dumps of what that was
// before the last rotation, and before those before it.
type loss struct {
	name  string
	heard bool // no login is needed only if all processes have looked since the last rotations
	lose  func(t *testing.T, s *server, dumps []dump)
}

var losses = []loss{
	{"FLUSHALL", false, func(t *testing.T, s *server, _ []dump) {
		if err := s.client().FlushAll(context.Background()).Err(); err != nil {
			t.Error(err)
		}
	}},
	{"a restart without persistence", false, func(t *testing.T, s *server, _ []dump) {
		s.signal(syscall.SIGKILL)
		s.restart()
	}},
	{"a dump one generation old", true, func(t *testing.T, s *server, dumps []dump) { dumps[0].restore(t, s) }},
	{"a dump two generations old", true, func(t *testing.T, s *server, dumps []dump) { dumps[1].restore(t, s) }},
}

// A dump is what Redis has, by key.
type dump map[string]string

func newDump(t *testing.T, s *server) dump {
	d, c, ctx := dump{}, s.client(), context.Background()
	keys, err := c.Keys(ctx, "*").Result()
	for _, key := range keys {
		if d[key], err = c.Dump(ctx, key).Result(); err != nil {
			break
		}
	}
	if err != nil || len(d) == 0 {
		t.Fatalf("got a dump of %d keys and error %v", len(d), err)
	}
	return d
}

func (d dump) restore(t *testing.T, s *server) {
	for key, value := range d {
		if err := s.client().RestoreReplace(context.Background(), key, 0, value).Err(); err != nil {
			t.Error(err)
		}
	}
}

// One process has missed the last rotations, and asks first when a new token is needed. It
// does not spend its refresh token.
func TestARedisThatLosesWhatItHadLogsNobodyOut(t *testing.T) {
	for _, l := range losses {
		for n := range *lossesFlag {
			t.Run(fmt.Sprintf("%s, 8 processes, %d", l.name, n), func(t *testing.T) { l.test(t, 8) })
			if *lossesFlag > 1 {
				t.Run(fmt.Sprintf("%s, 64 processes, %d", l.name, n), func(t *testing.T) { l.test(t, 64) })
			}
		}
	}
}

func (l loss) test(t *testing.T, n int) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	processes := newProcesses(n, s, refreshToken(srv))
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Fatal(err)
	}
	lagging := processes[0]
	old, _ := lagging.cache.Token(minute(t), nil)
	var dumps []dump
	for range 3 {
		dumps = append([]dump{newDump(t, s)}, dumps...)
		srv.RevokeAccess()
		if err := goodTokens(minute(t), srv, processes[1:]); err != nil {
			t.Fatal(err)
		}
	}
	if l.heard {
		untilAllHaveLooked(processes)
	}
	l.lose(t, s, dumps)
	srv.RevokeAccess()
	if token, err := lagging.stored.Token(minute(t), old); !l.heard && err == nil {
		t.Errorf("the process that lags behind: got %v, want an error", token)
	}
	if err := goodTokens(minutes(t, 2), srv, processes); err != nil {
		t.Errorf("got error %v, want tokens", err)
	}
	wantReuses(t, srv, 0)
}

// untilAllHaveLooked sends requests for as long as it takes all processes to learn what
// has been saved.
func untilAllHaveLooked(processes []*process) {
	ctx, cancel := context.WithTimeout(context.Background(), 35*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, p := range processes {
		all.Go(func() { p.sendRequests(ctx) })
	}
	all.Wait()
}

func TestFlushWhileRefreshing(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	processes := newProcesses(6, s, refreshToken(srv))
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Fatal(err)
	}
	err := whileRefreshing(t, srv, processes, func(wait func()) {
		wait()
		if err := s.client().FlushAll(context.Background()).Err(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Errorf("got error %v, want tokens", err)
	}
}
