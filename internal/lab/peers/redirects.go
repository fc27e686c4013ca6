package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// redirects lead from the API to another host, to another port, and from https
// to http. The token must arrive at none of them.
func redirects(sizes) scenario {
	return scenario{
		name:    "redirects",
		measure: measureRedirects,
		lines: []line{
			{title: "redirects to another host, another port, from https to http: tokens that arrived there", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f of %.0f", own["leaked"], own["strange"])
			}},
		},
	}
}

func measureRedirects(ctx context.Context, _ sizes, p peer) (sample, error) {
	w := newSecureWorld()
	defer w.close()
	d, err := p.dial(w)
	if err != nil {
		return sample{}, err
	}
	port := w.Elsewhere
	host := strings.Replace(w.Elsewhere, "127.0.0.1", "localhost", 1)
	for _, hop := range []struct{ from, to string }{
		{w.Plain, host}, {w.Plain, port}, {w.Secure, port},
	} {
		if err := warm(ctx, d, hop.from+"/api"); err != nil {
			return sample{}, err
		}
		if status := get(ctx, d, hop.from+"/redirect?to="+url.QueryEscape(hop.to)); status != 200 {
			return sample{}, fmt.Errorf("the redirect ended with %d", status)
		}
	}
	counts := w.counts()
	return sample{values: map[string]float64{"leaked": float64(counts.Leaked), "strange": float64(counts.Strange)}}, nil
}
