//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A process has what a process has: a client, a Stored and a Cache of its own.
type process struct {
	stored *tokensource.Stored
	cache  *tokensource.Cache
}

// newProcess returns a process that shares source's token with others.
func newProcess(s *server, source tokensource.Source) *process {
	client := newClient(s.t, &redis.Options{Addr: s.addr(), DialerRetries: 1, MaxRetries: 1})
	return newProcessWith(&redisstore.Store{Client: client, Prefix: "test:"}, source)
}

func newProcessWith(store tokensource.Store, source tokensource.Source) *process {
	stored := &tokensource.Stored{Source: source, Store: store, Key: "user"}
	return &process{stored, &tokensource.Cache{Source: stored}}
}

func newProcesses(n int, s *server, source tokensource.Source) []*process {
	processes := make([]*process, n)
	for i := range processes {
		processes[i] = newProcess(s, source)
	}
	return processes
}

// refreshToken shares one login's refresh token.
func refreshToken(srv *tokentest.Server) *tokensource.RefreshToken {
	return &tokensource.RefreshToken{Endpoint: endpoint(srv), RefreshToken: srv.RefreshToken()}
}

func endpoint(srv *tokentest.Server) tokensource.Endpoint {
	return tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret}
}

// goodToken gets a token that the API accepts, as a request would, however
// often it must be tried. It fails only if a new login is needed.
func (p *process) goodToken(ctx context.Context, srv *tokentest.Server) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var old *tokensource.Token
	for {
		token, err := p.cache.Token(ctx, old)
		switch {
		case err == nil && srv.Check(token.AccessToken) == nil:
			return nil
		case err == nil:
			old = token
		case errors.Is(err, tokensource.ErrReauthenticate):
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// goodTokens gets one for each process, and returns the errors. A process that has a
// token sends requests until all have one.
func goodTokens(ctx context.Context, srv *tokentest.Server, processes []*process) error {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(processes))
	var missing atomic.Int64
	missing.Store(int64(len(processes)))
	var all sync.WaitGroup
	for i, p := range processes {
		all.Go(func() {
			errs[i] = p.goodToken(ctx, srv)
			if missing.Add(-1) == 0 {
				stop()
			}
			p.sendRequests(waiting)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// sendRequests sends one each second until ctx ends.
func (p *process) sendRequests(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.cache.Token(ctx, nil)
		}
	}
}

func minute(t testing.TB) context.Context { return minutes(t, 1) }

func minutes(t testing.TB, n time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), n*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// whileRefreshing revokes all access tokens, again and again, until disturb has
// returned and all processes have got a good token once more. disturb gets a
// function that waits until a refresh is under way. An error says that a
// process was told that a new login is needed.
func whileRefreshing(t *testing.T, srv *tokentest.Server, processes []*process, disturb func(wait func())) error {
	srv.SetLatency(5 * time.Millisecond)
	ctx, cancel := context.WithCancel(minutes(t, 2))
	disturbed := make(chan struct{})
	go func() {
		defer close(disturbed)
		disturb(func() { waitForRefresh(ctx, srv) })
	}()
	defer func() {
		cancel()
		<-disturbed
	}()
	for last := false; !last; {
		select {
		case <-disturbed:
			last = true
		default:
		}
		srv.RevokeAccess()
		if err := goodTokens(ctx, srv, processes); err != nil {
			return err
		}
	}
	return nil
}

// waitForRefresh waits until one more token was requested than have been.
func waitForRefresh(ctx context.Context, srv *tokentest.Server) {
	for n := srv.Counts().TokenRequests; srv.Counts().TokenRequests == n && ctx.Err() == nil; {
		runtime.Gosched()
	}
}

func wantReuses(t *testing.T, srv *tokentest.Server, want int) {
	t.Helper()
	if got := srv.Counts().Reuses; got != want {
		t.Errorf("got %d spent refresh tokens presented, want %d", got, want)
	}
}

// Redis crashes while tokens are refreshed, and comes back with what it had.
func TestCrashOfRedisLosesNothing(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t, "--appendonly", "yes", "--appendfsync", "always")
	processes := newProcesses(6, s, refreshToken(srv))
	err := whileRefreshing(t, srv, processes, func(wait func()) {
		for range 5 {
			wait()
			s.signal(syscall.SIGKILL)
			s.restart()
		}
	})
	if err != nil {
		t.Errorf("got error %v, want a token for everybody", err)
	}
	wantReuses(t, srv, 0)
}

// A server without a file comes back empty. The process goes on with the newest
// token it knows, and saves the next.
func TestEmptyRedisIsFilledAgain(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	processes := newProcesses(1, s, refreshToken(srv))
	err := whileRefreshing(t, srv, processes, func(wait func()) {
		wait()
		s.signal(syscall.SIGKILL)
		s.restart()
	})
	if err != nil {
		t.Errorf("got error %v, want a token", err)
	}
	another := newProcess(s, processes[0].stored.Source)
	if err := another.goodToken(minute(t), srv); err != nil {
		t.Errorf("another process: got error %v, want the token", err)
	}
	wantReuses(t, srv, 0)
}

// Redis is silent for 10 s, from the middle of a refresh on: it is saved
// afterwards. Whoever has a good token goes on.
func TestPauseOfRedisLosesNothing(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	calm := tokentest.NewServer(t)
	good, processes := newProcess(s, refreshToken(calm)), newProcesses(4, s, refreshToken(srv))
	if err := good.goodToken(minute(t), calm); err != nil {
		t.Fatal(err)
	}
	err := whileRefreshing(t, srv, processes, func(wait func()) {
		wait()
		if err := s.client().ClientPause(context.Background(), 10*time.Second).Err(); err != nil {
			t.Error(err)
		}
		if err := good.goodToken(minute(t), calm); err != nil {
			t.Errorf("a good token in the Cache: got error %v, want the token", err)
		}
		if _, err := good.stored.Token(minute(t), nil); err != nil {
			t.Errorf("a good token in Stored: got error %v, want the token", err)
		}
	})
	if err != nil {
		t.Errorf("got error %v, want a token for everybody", err)
	}
	wantReuses(t, srv, 0)
}

func TestRefreshTokenIsNotSpentWithoutRedis(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	p := newProcess(s, refreshToken(srv))
	p.stored.Unshared = true // no matter
	if err := p.goodToken(minute(t), srv); err != nil {
		t.Fatal(err)
	}
	old, err := p.cache.Token(minute(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGKILL)
	before := srv.Counts().TokenRequests
	_, err = p.cache.Token(minute(t), old)
	if _, ok := errors.AsType[*tokensource.StoreError](err); !ok {
		t.Errorf("got error %v, want a StoreError", err)
	}
	if n := srv.Counts().TokenRequests - before; n != 0 {
		t.Errorf("got %d token requests without Redis, want none", n)
	}
}

func TestClientCredentialsGoOnWithoutRedis(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	processes := newProcesses(4, s, &tokensource.ClientCredentials{Endpoint: endpoint(srv)})
	for _, p := range processes {
		p.stored.Unshared = true
	}
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGKILL)
	srv.RevokeAccess()
	before := srv.Counts().Issued
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Errorf("without Redis: got error %v, want tokens", err)
	}
	if n := srv.Counts().Issued - before; n != len(processes) {
		t.Errorf("without Redis: got %d tokens issued, want one for each of %d processes", n, len(processes))
	}
	s.restart()
	srv.RevokeAccess()
	if err := goodTokens(minute(t), srv, processes); err != nil {
		t.Errorf("with Redis again: got error %v, want tokens", err)
	}
}
