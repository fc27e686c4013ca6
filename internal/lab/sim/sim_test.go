package sim_test

import (
	"flag"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 1000, "how many seeds to play")
	from  = flag.Uint64("from", 1, "the first of them")
	only  = flag.Uint64("seed", 0, "play this seed alone, up to 100 times, until it fails")
)

func TestSimulation(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // hardly anything lives on, so that a larger heap is cheaper
	if *only != 0 {
		again(t, *only)
		return
	}
	var next atomic.Uint64
	var requests, exchanges atomic.Int64
	var failed atomic.Int64
	next.Store(*from)
	last := *from + uint64(*seeds)
	t.Run("seeds", func(t *testing.T) {
		for n := range 2 {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed < last && failed.Load() == 0; seed = next.Add(1) - 1 {
					w := play(t, seed)
					requests.Add(int64(len(w.calls)))
					exchanges.Add(int64(w.issuer.calls))
					if len(w.bad) > 0 {
						failed.Add(1)
						t.Errorf("seed %d: %s", seed, w.bad[0])
						if testing.Verbose() {
							t.Log("\n" + w.text())
						}
					}
				}
			})
		}
	})
	t.Logf("%d seeds, %d requests, %d token requests", *seeds, requests.Load(), exchanges.Load())
}

// again plays one seed until it fails.
func again(t *testing.T, seed uint64) {
	began := time.Now()
	for n := range 100 {
		w := play(t, seed)
		if len(w.bad) > 0 || n == 99 && testing.Verbose() {
			t.Log("\n" + w.text())
		}
		if len(w.bad) > 0 {
			t.Fatalf("seed %d, at the %d. time: %s", seed, n+1, w.bad)
		}
	}
	t.Logf("100 times without a failure, in %v", time.Since(began))
}
