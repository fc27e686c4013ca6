package oteltoken_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oteltoken"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A service that reads an API. Its token is revoked once.
func Example() {
	srv := tokentest.Start()
	defer srv.Close()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewInMemoryExporter()
	recorder := &oteltoken.Recorder{ // without these fields, the providers are the global ones
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)),
	}

	cache := &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
		Client: &http.Client{Transport: recorder.RoundTripper(oteltoken.TokenRequests, nil)},
	}}}
	auth := &transport.Auth{
		Source: recorder.Source(cache),
		Base:   recorder.RoundTripper(oteltoken.Attempts, nil),
	}
	client := &http.Client{Transport: recorder.RoundTripper(oteltoken.Requests, auth)}

	for range 2 {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		srv.RevokeAccess()
	}

	for _, line := range sums(reader) {
		fmt.Println(line)
	}
	for _, span := range spans.GetSpans() {
		fmt.Println("span:", span.Name)
	}
	// Output:
	// tokentripper.requests{http.response.status_code=200,tokentripper.layer=attempt} 2
	// tokentripper.requests{http.response.status_code=200,tokentripper.layer=request} 2
	// tokentripper.requests{http.response.status_code=200,tokentripper.layer=token_request} 2
	// tokentripper.requests{http.response.status_code=401,tokentripper.layer=attempt} 1
	// span: token refresh
	// span: token refresh
}

// sums returns the values of tokentripper.requests, sorted.
func sums(reader sdkmetric.Reader) (lines []string) {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		return []string{err.Error()}
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "tokentripper.requests" {
				for _, point := range sum.DataPoints {
					lines = append(lines, fmt.Sprintf("%s{%s} %d", m.Name, point.Attributes.Encoded(attribute.DefaultEncoder()), point.Value))
				}
			}
		}
	}
	slices.SortFunc(lines, cmp.Compare[string])
	return lines
}
