package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// revocation is a thousand callers in a loop while the server revokes the token.
func revocation(size sizes) scenario {
	return scenario{
		name: "revocation", serial: true,
		measure: measureRevocation,
		lines: []line{
			{title: "token revoked under " + number(size.loopers) + " callers in a loop: token requests", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f", own["tokens"])
			}},
			{title: fmt.Sprintf("… of their %s requests failed", number(size.loopers*size.loops)), cell: func(own map[string]float64, _ medians) string {
				failed := fmt.Sprintf("%.0f", own["failed"])
				switch {
				case own["recovers"] == 0:
					return failed + ", and all that follow"
				case own["often"] > 0:
					return fmt.Sprintf("%s; %.0f sent more than twice", failed, own["often"])
				}
				return failed
			}},
		},
	}
}

func measureRevocation(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newWorld()
	defer w.close()
	w.limit()
	d, err := p.start(ctx, w)
	if err != nil {
		return sample{}, err
	}
	w.set(func(c *Conduct) { c.Latency, c.RevokeAt = 50*time.Millisecond, size.loopers })
	before := w.tokenRequests()
	var group sync.WaitGroup
	var failed atomic.Int64
	for i := range size.loopers {
		group.Go(func() {
			for j := range size.loops {
				if get(ctx, d, fmt.Sprintf("%s/api?id=%d.%d", w.Plain, i, j)) != http.StatusOK {
					failed.Add(1)
				}
			}
		})
	}
	group.Wait()
	values := map[string]float64{
		"tokens":   float64(w.tokenRequests() - before),
		"failed":   float64(failed.Load()),
		"often":    float64(w.counts().Often),
		"recovers": 0,
	}
	if get(ctx, d, w.Plain+"/api") == http.StatusOK {
		values["recovers"] = 1
	}
	return sample{values: values}, nil
}
