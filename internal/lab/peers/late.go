package main

import (
	"context"
	"net/http"
)

// lateRefusals are of requests that were sent with the old token, and are
// refused one by one after somebody else has obtained the next.
func lateRefusals(size sizes) scenario {
	return scenario{
		name:    "late 401",
		measure: measureLate,
		lines: []line{
			{title: number(size.late) + " refusals that come after the refresh, one by one: further token requests", cell: func(own map[string]float64, _ medians) string {
				return withFailed(own)
			}},
		},
	}
}

func measureLate(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newWorld()
	defer w.close()
	d, err := p.start(ctx, w)
	if err != nil {
		return sample{}, err
	}
	ended := make(chan int, size.late)
	w.set(func(c *Conduct) { c.Hold = true })
	for range size.late {
		go func() { ended <- get(ctx, d, w.Plain+"/late") }()
	}
	if err := until(ctx, func() bool { return w.counts().Held == size.late }); err != nil {
		return sample{}, err
	}
	w.set(func(c *Conduct) { c.Hold = false })
	w.revoke()
	refreshed := false
	for range 3 { // who cannot send again may yet have the next token for the next request
		refreshed = refreshed || get(ctx, d, w.Plain+"/api") == http.StatusOK
	}
	before, failed := w.tokenRequests(), 0
	for range size.late {
		if ctx.Err() != nil {
			return sample{}, ctx.Err()
		}
		w.call("Release", None{}, nil)
		if <-ended != http.StatusOK {
			failed++
		}
	}
	if !refreshed {
		return sample{words: "no refresh: all fail"}, nil
	}
	return sample{values: map[string]float64{"tokens": float64(w.tokenRequests() - before), "failed": float64(failed)}}, nil
}
