package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// cancelled is a first caller who gives up during the refresh that he began.
func cancelled(size sizes) scenario {
	return scenario{
		name:    "cancelled first caller",
		measure: measureCancelled,
		lines: []line{
			{title: "first caller gives up during the refresh: others who fail; token requests", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f of %.0f; %.0f", own["failed"], own["others"], own["tokens"])
			}},
		},
	}
}

func measureCancelled(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newWorld()
	defer w.close()
	w.set(func(c *Conduct) { c.Latency = size.refresh })
	d, err := p.dial(w)
	if err != nil {
		return sample{}, err
	}
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	var failed atomic.Int64
	group.Go(func() { get(first, d, w.Plain+"/api") })
	if err := until(ctx, func() bool { return w.tokenRequests() > 0 || w.conduct.Open }); err != nil {
		return sample{}, err
	}
	for range size.others {
		group.Go(func() {
			if get(ctx, d, w.Plain+"/api") != http.StatusOK {
				failed.Add(1)
			}
		})
	}
	if err := pause(ctx, min(size.refresh/2, 50*time.Millisecond)); err != nil { // so that the others wait, too
		return sample{}, err
	}
	cancel()
	group.Wait()
	return sample{values: map[string]float64{
		"failed": float64(failed.Load()), "others": float64(size.others), "tokens": float64(w.tokenRequests()),
	}}, nil
}
