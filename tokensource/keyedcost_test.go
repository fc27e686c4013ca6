package tokensource_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// fill makes n keys with a token each, and returns a context of each.
func fill(t testing.TB, k *tokensource.Keyed[int], n int) []context.Context {
	all := make([]context.Context, n)
	for i := range all {
		all[i] = context.WithValue(t.Context(), tenantKey{}, i)
		if _, err := k.Token(all[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func numberedKeys(max int) *tokensource.Keyed[int] {
	source := tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
		return &Token{AccessToken: fmt.Sprintf("opaque-access-token-%032d", ctx.Value(tenantKey{})), Expiry: time.Now().Add(time.Hour)}, nil
	})
	return &tokensource.Keyed[int]{
		Key:     func(ctx context.Context) (int, error) { return ctx.Value(tenantKey{}).(int), nil },
		New:     func(int) *tokensource.Cache { return &tokensource.Cache{Source: source} },
		MaxKeys: max,
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAMillionKeysTakeAtMostOneKiBEach(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 50_000
	}
	before := heap()
	k := numberedKeys(n)
	for i := range n {
		if _, err := k.Token(context.WithValue(t.Context(), tenantKey{}, i), nil); err != nil {
			t.Fatal(err)
		}
	}
	each := (heap() - before) / uint64(n)
	t.Logf("%d keys, %d bytes each", n, each)
	if each > 1024 && !raceEnabled {
		t.Errorf("a key takes %d bytes, want at most 1024", each)
	}
	runtime.KeepAlive(k)
}

func TestAKnownKeyCostsNoAllocation(t *testing.T) {
	k := numberedKeys(10)
	ctx := fill(t, k, 1)[0]
	if got := testing.AllocsPerRun(100, func() { k.Token(ctx, nil) }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func BenchmarkKeyed(b *testing.B) {
	k := numberedKeys(100_000)
	contexts := fill(b, k, 100_000)
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := int(next.Add(31_337)); pb.Next(); i += 7919 {
			if _, err := k.Token(contexts[i%len(contexts)], nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
