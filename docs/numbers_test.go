package docs_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// The numbers of how-it-works.md and operating.md that no other test has.

// An issuer counts the token requests, and gives tokens that live for an hour.
type issuer struct {
	requests atomic.Int32
	down     atomic.Bool
}

func (i *issuer) Token(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	n := i.requests.Add(1)
	if i.down.Load() {
		return nil, errors.New("down")
	}
	return &tokensource.Token{AccessToken: fmt.Sprint("token-", n), Expiry: time.Now().Add(time.Hour)}, nil
}

// aDay is a day in the life of replicas that are always busy.
func aDay(replicas int, source func() tokensource.Source) {
	caches := make([]*tokensource.Cache, replicas)
	for i := range caches {
		caches[i] = &tokensource.Cache{Source: source()}
	}
	for start := time.Now(); time.Since(start) < 24*time.Hour; time.Sleep(20 * time.Second) {
		for _, c := range caches {
			c.Token(context.Background(), nil)
		}
		synctest.Wait()
	}
}

func TestABusyReplicaAsksAboutSevenTimesInFiveLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		aDay(100, func() tokensource.Source { return tokens })
		perReplica := float64(tokens.requests.Load()) / 100
		if perReplica < 32 || perReplica > 35 { // 24 h / 43.5 min, and the first
			t.Errorf("%.1f token requests in a day, want 32 to 35", perReplica)
		}
	})
}

func TestReplicasOverAStoreAskAtMostTwiceInALifetimeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, store := new(issuer), new(storetest.Memory)
		aDay(20, func() tokensource.Source {
			return &tokensource.Stored{Source: tokens, Store: store, Key: "reports"}
		})
		if got := tokens.requests.Load(); got < 36 || got > 45 { // 24 h / (55 percent of an hour, or a little more)
			t.Errorf("%d token requests of 20 replicas in a day, want 36 to 45", got)
		}
	})
}

func TestAnIdleReplicaAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		c := &tokensource.Cache{Source: tokens}
		c.Token(t.Context(), nil)
		time.Sleep(24 * time.Hour)
		if got := tokens.requests.Load(); got != 1 {
			t.Errorf("%d token requests, want 1", got)
		}
	})
}

func TestAfterALongOutageAReplicaAsksWithin100Seconds(t *testing.T) {
	for range 10 { // the waits are drawn
		synctest.Test(t, func(t *testing.T) {
			tokens := new(issuer)
			tokens.down.Store(true)
			c := &tokensource.Cache{Source: tokens}
			for range 3600 {
				c.Token(t.Context(), nil)
				time.Sleep(time.Second)
			}
			tokens.down.Store(false)
			end := time.Now()
			for {
				if _, err := c.Token(t.Context(), nil); err == nil {
					break
				}
				time.Sleep(time.Second)
			}
			if late := time.Since(end); late > 101*time.Second {
				t.Errorf("a token came %v after the outage, want at most 100s", late)
			}
		})
	}
}

func TestARefreshIsToldOnceAndNotIfALoginEndedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		failed := false
		c := &tokensource.Cache{Patience: -1, OnRefresh: func(tokensource.Refresh) { told++ }}
		c.Source = tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			if !failed {
				failed = true
				return nil, errors.New("down")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		for range 100 { // all but one get the remembered error
			c.Token(t.Context(), nil)
		}
		time.Sleep(time.Second)
		go c.Token(t.Context(), nil)
		synctest.Wait()
		if err := c.Set(t.Context(), &tokensource.Token{AccessToken: "new"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times of two refreshes, the second ended by a login, want 1", told)
		}
	})
}
