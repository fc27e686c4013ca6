package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// deadline is a caller who can wait for 100 ms, during a refresh that takes 2 s.
func deadline(size sizes) scenario {
	return scenario{
		name:    "waiter's deadline",
		measure: measureDeadline,
		lines: []line{
			{title: fmt.Sprintf("deadline of 100 ms during a refresh of %v: the caller returns after", size.slow), cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.1f s", own["seconds"])
			}},
		},
	}
}

func measureDeadline(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newWorld()
	defer w.close()
	w.set(func(c *Conduct) { c.Latency = size.slow })
	d, err := p.dial(w)
	if err != nil {
		return sample{}, err
	}
	var first sync.WaitGroup
	first.Go(func() { get(ctx, d, w.Plain+"/api") })
	defer first.Wait()
	if err := until(ctx, func() bool { return w.tokenRequests() > 0 || w.conduct.Open }); err != nil {
		return sample{}, err
	}
	hurried, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	get(hurried, d, w.Plain+"/api")
	return sample{values: map[string]float64{"seconds": time.Since(began).Seconds()}}, nil
}
