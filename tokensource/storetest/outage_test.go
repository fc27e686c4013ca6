package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A rotating is a server in a bubble. It revokes all when a refresh token is spent
// twice.
type rotating struct {
	life time.Duration

	mu        sync.Mutex // guards what follows
	rotations int
	reuses    int
	expiry    map[string]time.Time // of the access tokens
}

func (s *rotating) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	time.Sleep(50 * time.Millisecond)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	spent := old != nil && old.RefreshToken != fmt.Sprint("refresh-", s.rotations)
	if s.reuses > 0 || spent || old == nil && s.rotations > 0 {
		s.reuses++
		return nil, tokensource.ErrReauthenticate
	}
	s.rotations++
	t := &tokensource.Token{
		AccessToken:  fmt.Sprint("access-", s.rotations),
		RefreshToken: fmt.Sprint("refresh-", s.rotations),
		Expiry:       time.Now().Add(s.life),
	}
	s.expiry[t.AccessToken] = t.Expiry
	return t, nil
}

// accepts is what the API says.
func (s *rotating) accepts(t *tokensource.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reuses == 0 && time.Now().Before(s.expiry[t.AccessToken])
}

// counts returns the rotations and the reuses so far.
func (s *rotating) counts() (rotations, reuses int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rotations, s.reuses
}

// An outage is a Store that saves nothing while down says so.
type outage struct {
	tokensource.Store
	down func() bool
}

func (o outage) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return o.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(value []byte) error {
			if o.down() {
				return errors.New("the store is read-only")
			}
			return save(value)
		})
	})
}

// A service is one process.
type service struct {
	server *rotating
	cache  tokensource.Cache
	failed *atomic.Int32
}

// request does what a request does, but for sending it.
func (s *service) request(ctx context.Context) {
	token, err := s.cache.Token(ctx, nil)
	if err != nil || !s.server.accepts(token) {
		s.failed.Add(1)
	}
}

// serve sends a request each 300 ms or so, for a time.
func (s *service) serve(ctx context.Context, i int, until time.Time) {
	for time.Now().Before(until) {
		s.request(ctx)
		time.Sleep(300*time.Millisecond + time.Duration(i)*time.Millisecond)
	}
}

func TestAnOutageOfSavesLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		down := func() bool { return time.Since(begin)%(48*time.Second) < 11*time.Second }
		server := &rotating{life: 20 * time.Second, expiry: map[string]time.Time{}}
		memory, failed := new(storetest.Memory), new(atomic.Int32)
		var all sync.WaitGroup
		for i := range 32 {
			s := &service{server: server, failed: failed}
			s.cache.Source = &tokensource.Stored{Source: server, Store: outage{memory, down}, Key: "key"}
			all.Go(func() { s.serve(t.Context(), i, begin.Add(20*48*time.Second)) })
		}
		all.Wait()
		time.Sleep(time.Minute) // until the last refresh has ended
		// A token is refreshed after 11 to 20 s.
		if n, reuses := server.counts(); reuses > 0 || failed.Load() > 0 || n < 48 || n > 90 {
			t.Errorf("got %d rotations, %d reuses, %d failed requests; want 48 to 90, 0, 0", n, reuses, failed.Load())
		}
	})
}

// TestATokenThatCannotBeSavedIsUsedAndSavedLater has an outage that is longer than Stored
// tries to save under the lock.
func TestATokenThatCannotBeSavedIsUsedAndSavedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		down := func() bool { return time.Since(begin) < 40*time.Second }
		server := &rotating{life: time.Hour, expiry: map[string]time.Time{}}
		memory, failed := new(storetest.Memory), new(atomic.Int32)
		one := &service{server: server, failed: failed}
		one.cache.Source = &tokensource.Stored{Source: server, Store: outage{memory, down}, Key: "key"}
		one.serve(t.Context(), 0, begin.Add(2*time.Minute))
		before, _ := server.counts()
		other := &service{server: server, failed: failed}
		other.cache.Source = &tokensource.Stored{Source: server, Store: memory, Key: "key"}
		other.request(t.Context())
		if n, reuses := server.counts(); reuses > 0 || failed.Load() > 0 || n != before {
			t.Errorf("got %d reuses, %d failed requests, %d exchanges by another process; want none", reuses, failed.Load(), n-before)
		}
	})
}

// A chaos is a Store in which anything fails now and then, and answers get lost.
type chaos struct{ tokensource.Store }

var errChaos = errors.New("chaos")

// strike fails one time in n.
func strike(n int) error {
	time.Sleep(rand.N(20 * time.Millisecond))
	if rand.IntN(n) == 0 {
		return errChaos
	}
	return nil
}

func (c chaos) Load(ctx context.Context, key string) ([]byte, error) {
	if err := strike(5); err != nil {
		return nil, err
	}
	return c.Store.Load(ctx, key)
}

func (c chaos) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if err := strike(5); err != nil {
		return err
	}
	err := c.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(value []byte) error {
			if err := strike(4); err != nil {
				return err
			}
			return errors.Join(save(value), strike(4))
		})
	})
	return errors.Join(err, strike(5))
}

func TestFaultsNeverSpendARefreshTokenTwice(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			server := &rotating{life: 3 * time.Second, expiry: map[string]time.Time{}}
			faulty := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				if err := strike(5); err != nil {
					return nil, err
				}
				return server.Token(ctx, old)
			})
			memory, failed := new(storetest.Memory), new(atomic.Int32)
			var all sync.WaitGroup
			for i := range 8 {
				s := &service{server: server, failed: failed}
				s.cache.Source = &tokensource.Stored{Source: faulty, Store: chaos{memory}, Key: "key"}
				all.Go(func() { s.serve(t.Context(), i, time.Now().Add(5*time.Minute)) })
			}
			all.Wait()
			time.Sleep(time.Minute) // until the last refresh has ended
			if n, reuses := server.counts(); reuses > 0 || n < 100 {
				t.Errorf("got %d rotations, %d reuses; want 100 or more, 0", n, reuses)
			}
		})
	}
}
