package oteltoken_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oteltoken"
	"github.com/tokentripper/tokentripper/transport"
)

// accepting returns an Auth over a base that accepts everything, and one that r records
// at all its places.
func accepting(r *recording) (bare, recorded http.RoundTripper) {
	answer := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTrip(func(*http.Request) (*http.Response, error) { return answer, nil })
	static := func() *tokensource.Cache {
		return &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: "token"})}
	}
	auth := &transport.Auth{Source: r.Source(static()), Base: r.RoundTripper(oteltoken.Attempts, base)}
	return &transport.Auth{Source: static(), Base: base}, r.RoundTripper(oteltoken.Requests, auth)
}

func request(tb testing.TB) *http.Request {
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "https://api.example", nil)
	if err != nil {
		tb.Fatal(err)
	}
	return req
}

func TestAnAcceptedRequestAllocatesNothingMore(t *testing.T) {
	bare, recorded := accepting(record())
	allocs := func(rt http.RoundTripper) float64 {
		req := request(t)
		return testing.AllocsPerRun(1000, func() { rt.RoundTrip(req) })
	}
	want(t, "allocations", allocs(recorded), allocs(bare))
}

func BenchmarkAccepted(b *testing.B) {
	r := record()
	bare, recorded := accepting(r)
	inSpan, span := r.tracer.Start(b.Context(), "caller")
	defer span.End()
	for _, c := range []struct {
		name string
		rt   http.RoundTripper
		ctx  context.Context
	}{{"bare", bare, b.Context()}, {"recorded", recorded, b.Context()}, {"recorded in a span", recorded, inSpan}} {
		b.Run(c.name, func(b *testing.B) {
			req := request(b).WithContext(c.ctx)
			b.ReportAllocs()
			for b.Loop() {
				c.rt.RoundTrip(req)
			}
		})
	}
}
