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

// A service that calls an API for many tenants, each with a token of its own. The tenant
// is in the context.
func ExampleKeyed() {
	srv := tokentest.Start()
	defer srv.Close()
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))

	type tenantKey struct{}
	source := oteltoken.Keyed(&oteltoken.Recorder{TracerProvider: tracers}, &tokensource.Keyed[string]{
		Key: func(ctx context.Context) (string, error) {
			tenant, _ := ctx.Value(tenantKey{}).(string)
			return tenant, nil
		},
		New: func(tenant string) *tokensource.Cache {
			return &tokensource.Cache{Source: &tokensource.ClientCredentials{
				Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
				Scopes:   []string{tenant},
			}}
		},
	})
	client := &http.Client{Transport: &transport.Auth{Source: source}}

	for _, tenant := range []string{"red", "blue", "red"} {
		ctx, span := tracers.Tracer("service").Start(context.WithValue(context.Background(), tenantKey{}, tenant), tenant)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.APIURL(), nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		span.End()
	}
	for _, span := range spans.GetSpans() {
		fmt.Println("span:", span.Name, "with links:", len(span.Links))
	}
	// Output:
	// span: token refresh with links: 1
	// span: red with links: 1
	// span: token refresh with links: 1
	// span: blue with links: 1
	// span: red with links: 0
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
