package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// outage is a token endpoint that answers 503 for 2 s, under 50 callers who
// have no token and try again and again.
func outage(size sizes) scenario {
	return scenario{
		name: "outage", serial: true,
		measure: measureOutage,
		lines: []line{
			{title: fmt.Sprintf("token endpoint down for %v, %d callers in a loop: token requests", size.outage, outageCallers), cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f", own["tokens"])
			}},
			{title: "… errors that the callers got", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f", own["errors"])
			}},
			{title: "… all served again after", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.1f s", own["seconds"])
			}},
		},
	}
}

const (
	outageCallers = 50
	outagePause   = 20 * time.Millisecond // of a caller, after an error
)

func measureOutage(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newWorld()
	defer w.close()
	w.set(func(c *Conduct) { c.Down = true })
	d, err := p.dial(w)
	if err != nil {
		return sample{}, err
	}
	var group sync.WaitGroup
	var errors atomic.Int64
	for range outageCallers {
		group.Go(func() {
			for get(ctx, d, w.Plain+"/api") != http.StatusOK && pause(ctx, outagePause) == nil {
				errors.Add(1)
			}
		})
	}
	err = pause(ctx, size.outage)
	tokens := w.tokenRequests()
	w.set(func(c *Conduct) { c.Down = false })
	ended := time.Now()
	group.Wait()
	return sample{values: map[string]float64{
		"tokens": float64(tokens), "errors": float64(errors.Load()), "seconds": time.Since(ended).Seconds(),
	}}, err
}
