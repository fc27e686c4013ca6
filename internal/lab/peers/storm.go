package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// storm is ten thousand callers at the moment of expiry. What takes time is in
// relation to as many callers through the base, and one token request.
func storm(size sizes) scenario {
	return scenario{
		name: "storm", serial: true,
		measure: measureStorm,
		lines: []line{
			{title: number(size.storm) + " callers at the moment of expiry: token requests", cell: func(own map[string]float64, _ medians) string {
				return withFailed(own)
			}},
			{title: "… time, in relation to the base's and one token request", timed: true, cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.2f", own["ratio"])
			}},
		},
	}
}

// measureStorm measures several, for one differs from the next by some percent.
func measureStorm(ctx context.Context, size sizes, p peer) (sample, error) {
	var storms []sample
	for range size.storms {
		values, err := stormBetween(ctx, size, p)
		if err != nil {
			return sample{}, err
		}
		storms = append(storms, sample{values: values})
	}
	return sample{values: median(storms)}, nil
}

// stormBetween measures a storm between two of the base's.
func stormBetween(ctx context.Context, size sizes, p peer) (map[string]float64, error) {
	before, err := stormOf(ctx, size, bare)
	if err != nil {
		return nil, err
	}
	own, err := stormOf(ctx, size, p)
	if err != nil {
		return nil, err
	}
	after, err := stormOf(ctx, size, bare)
	if err != nil {
		return nil, err
	}
	if p.name == bare.name { // which asks for no token
		own["seconds"] += size.refresh.Seconds()
	}
	own["ratio"] = own["seconds"] / ((before["seconds"]+after["seconds"])/2 + size.refresh.Seconds())
	return own, nil
}

// soon is when a token expires that is to expire.
const soon = time.Second

func stormOf(ctx context.Context, size sizes, p peer) (map[string]float64, error) {
	w := newWorld()
	defer w.close()
	w.limit()
	w.set(func(c *Conduct) { c.Lifetime = soon })
	d, err := p.start(ctx, w)
	if err == nil && p.name != bare.name {
		err = pause(ctx, soon+100*time.Millisecond)
	}
	if err != nil {
		return nil, err
	}
	w.set(func(c *Conduct) { c.Lifetime, c.Latency = time.Hour, size.refresh })
	before := w.tokenRequests()
	runtime.GC() // what others have left
	failed, took := stampede(ctx, d, w.Plain+"/api", size.storm)
	return map[string]float64{
		"seconds": took.Seconds(),
		"failed":  float64(failed),
		"tokens":  float64(w.tokenRequests() - before),
	}, nil
}

// stampede sends n requests at once.
func stampede(ctx context.Context, d doer, url string, n int) (failed int, took time.Duration) {
	var group sync.WaitGroup
	var bad atomic.Int64
	gate := make(chan struct{})
	for range n {
		group.Go(func() {
			<-gate
			if get(ctx, d, url) != http.StatusOK {
				bad.Add(1)
			}
		})
	}
	began := time.Now()
	close(gate)
	group.Wait()
	return int(bad.Load()), time.Since(began)
}

// withFailed writes token requests, and failed requests if there are some.
func withFailed(own map[string]float64) string {
	if own["failed"] == 0 {
		return fmt.Sprintf("%.0f", own["tokens"])
	}
	return fmt.Sprintf("%.0f; %.0f failed", own["tokens"], own["failed"])
}
