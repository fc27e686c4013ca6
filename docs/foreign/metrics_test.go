package foreign_test

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

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

// observeOpenTelemetry returns an OnRefresh that records in a meter's instruments.
func observeOpenTelemetry(meter metric.Meter) (func(tokensource.Refresh), error) {
	seconds, err := meter.Float64Histogram("token.refresh.duration", metric.WithUnit("s"),
		metric.WithDescription("How long refreshes took."))
	if err != nil {
		return nil, err
	}
	waiters, err := meter.Int64Counter("token.refresh.waiters", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that waited for a refresh."))
	if err != nil {
		return nil, err
	}
	return func(r tokensource.Refresh) {
		ctx := context.Background()
		seconds.Record(ctx, r.Duration.Seconds(), metric.WithAttributes(
			attribute.String("cause", string(r.Cause)),
			attribute.Bool("failed", r.Err != nil),
		))
		waiters.Add(ctx, int64(r.Waiters))
	}, nil
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

func Example_openTelemetry() {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	observe, err := observeOpenTelemetry(provider.Meter("reports"))
	if err != nil {
		log.Fatal(err)
	}
	refreshTwice(observe)

	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		log.Fatal(err)
	}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				cause, _ := p.Attributes.Value("cause")
				fmt.Println(m.Name, cause.AsString(), p.Count)
			}
		case metricdata.Sum[int64]:
			fmt.Println(m.Name, data.DataPoints[0].Value)
		}
	}
	// Unordered output:
	// token.refresh.duration expired 1
	// token.refresh.duration refused 1
	// token.refresh.waiters 2
}
