package oteltoken_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oteltoken"
)

type userKey struct{}

func as(ctx context.Context, user int) context.Context {
	return context.WithValue(ctx, userKey{}, user)
}

// byUser is a Keyed whose caches are those of users.
func byUser(cache func(int) *tokensource.Cache) *tokensource.Keyed[int] {
	return &tokensource.Keyed[int]{
		Key: func(ctx context.Context) (int, error) {
			if user, ok := ctx.Value(userKey{}).(int); ok {
				return user, nil
			}
			return 0, errors.New("no user")
		},
		New: cache,
	}
}

func TestEachRequestOfAKeyLinksToTheRefreshThatItWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := oteltoken.Keyed(&r.Recorder, byUser(func(int) *tokensource.Cache { return &tokensource.Cache{Source: slow(nil)} }))
		var all sync.WaitGroup
		for user := range 2 {
			for range 3 + 2*user {
				all.Go(func() { r.call(as(t.Context(), user), source, nil) })
			}
			all.Wait()
			_, token, _ := r.call(as(t.Context(), user), source, nil) // waits for nothing
			r.call(as(t.Context(), user), source, token)
		}
		if _, _, err := r.call(t.Context(), source, nil); err == nil {
			t.Error("got no error without a user")
		}
		synctest.Wait()
		var got []int
		for _, refresh := range r.refreshes() {
			got = append(got, r.links(refresh.SpanContext))
		}
		want(t, "links to the refreshes", got, []int{3, 1, 5, 1})
	})
}

func TestTheCachesThatAKeyedDropsAreFreed(t *testing.T) {
	r := record()
	var freed atomic.Int32
	keyed := byUser(func(int) *tokensource.Cache {
		cache := &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: "token"})}
		runtime.AddCleanup(cache, func(struct{}) { freed.Add(1) }, struct{}{})
		return cache
	})
	keyed.MaxKeys = 1
	source := oteltoken.Keyed(&r.Recorder, keyed)
	for user := range 10 {
		if _, _, err := r.call(as(t.Context(), user), source, nil); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); freed.Load() < 9 && time.Now().Before(end); {
		runtime.GC()
	}
	want(t, "freed", freed.Load(), 9)
	runtime.KeepAlive(source)
}
