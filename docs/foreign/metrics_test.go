package foreign_test

import (
	"cmp"
	"fmt"
	"log"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// observePrometheus returns an OnRefresh that fills metrics in a registry.
func observePrometheus(registry prometheus.Registerer) func(tokensource.Refresh) {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "token_refresh_duration_seconds",
		Help:    "How long refreshes took; their number is that of token refreshes.",
		Buckets: prometheus.DefBuckets,
	}, []string{"cause", "failed"})
	waiters := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "token_refresh_waiters_total",
		Help: "Requests that waited for a refresh.",
	})
	registry.MustRegister(seconds, waiters)

	return func(r tokensource.Refresh) {
		seconds.WithLabelValues(string(r.Cause), strconv.FormatBool(r.Err != nil)).Observe(r.Duration.Seconds())
		waiters.Add(float64(r.Waiters))
	}
}

// refreshTwice tells of two refreshes.
func refreshTwice(observe func(tokensource.Refresh)) {
	srv := tokentest.Start()
	defer srv.Close()
	cache := &tokensource.Cache{
		Source: &tokensource.RefreshToken{
			Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
			RefreshToken: srv.RefreshToken(),
		},
		OnRefresh: observe,
	}
	pages.TwoRefreshes(srv, cache, &http.Client{Transport: &transport.Auth{Source: cache}})
}

func Example_prometheus() {
	registry := prometheus.NewRegistry()
	refreshTwice(observePrometheus(registry))

	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			fmt.Print(f.GetName())
			for _, l := range m.GetLabel() {
				fmt.Printf(" %s=%s", l.GetName(), l.GetValue())
			}
			fmt.Printf(": %v\n", cmp.Or(float64(m.GetHistogram().GetSampleCount()), m.GetCounter().GetValue()))
		}
	}
	// Output:
	// token_refresh_duration_seconds cause=expired failed=false: 1
	// token_refresh_duration_seconds cause=refused failed=false: 1
	// token_refresh_waiters_total: 2
}
