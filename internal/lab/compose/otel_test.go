package compose

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// An otel is otelhttp made fit to be a RoundTripper like others.
type otel struct {
	*otelhttp.Transport
	base http.RoundTripper
}

func newOtel(base http.RoundTripper, opts ...otelhttp.Option) *otel {
	opts = append(opts,
		otelhttp.WithPropagators(propagation.TraceContext{}),
		// It copies the Trailer, whose values net/http reads after the body.
		otelhttp.WithFilter(func(r *http.Request) bool { return len(r.Trailer) == 0 }))
	return &otel{otelhttp.NewTransport(base, opts...), base}
}

func (o *otel) CloseIdleConnections() { (&http.Client{Transport: o.base}).CloseIdleConnections() }

// traced is otelhttp as it comes.
func traced(base http.RoundTripper) http.RoundTripper {
	return otelhttp.NewTransport(base, otelhttp.WithTracerProvider(sdktrace.NewTracerProvider()))
}

func TestOtelhttpAsItComesLosesTrailersAndCloseIdleConnections(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return auth(traced(base), token)
	}, map[string]string{
		"the request's trailers arrive":         "the trailer: got , want 5",
		"CloseIdleConnections reaches the base": "connections left: got 1, want 0",
	})
}

func TestOtelhttpBelowAuthKeepsTheContract(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return auth(newOtel(base), token)
	}, nil)
}

func TestOtelhttpAboveAuthKeepsTheContract(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return newOtel(auth(base, token))
	}, map[string]string{"the response's Request is the caller's": "it is another"}) // otelhttp's copy
}

func TestOtelhttpAboveAndBelowAuthKeepsTheContract(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return newOtel(auth(newOtel(base), token))
	}, map[string]string{"the response's Request is the caller's": "it is another"})
}

// spans are what a test has recorded, sorted: "above 200", "below 401 in above".
func spans(recorder *tracetest.SpanRecorder) (all []string) {
	names := make(map[string]string)
	for _, s := range recorder.Ended() {
		names[s.SpanContext().SpanID().String()] = s.Name()
	}
	for _, s := range recorder.Ended() {
		text := s.Name()
		for _, a := range s.Attributes() {
			if a.Key == "http.response.status_code" {
				text += fmt.Sprint(" ", a.Value.AsInt64())
			}
		}
		if parent := names[s.Parent().SpanID().String()]; parent != "" {
			text += " in " + parent
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// recording returns layers that name their spans, and what they record.
func recording() (layer func(name string, base http.RoundTripper) http.RoundTripper, recorder *tracetest.SpanRecorder) {
	recorder = tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	return func(name string, base http.RoundTripper) http.RoundTripper {
		return newOtel(base, otelhttp.WithTracerProvider(provider),
			otelhttp.WithSpanNameFormatter(func(string, *http.Request) string { return name }))
	}, recorder
}

func TestOtelhttpAboveHasASpanForEachRequestAndBelowForEachAttempt(t *testing.T) {
	layer, recorder := recording()
	base := &api{answers: []answer{{status: 200, refuses: "token-1"}}}
	a := &transport.Auth{Source: numbered(time.Hour), Base: layer("below", base)}
	wantStatus(t, layer("above", a), http.StatusOK)
	if got, want := spans(recorder), []string{"above 200", "below 200 in above", "below 401 in above"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestNoSpanHasAToken(t *testing.T) {
	layer, recorder := recording()
	base := &api{answers: []answer{{status: 200, refuses: "token-1"}}}
	wantStatus(t, layer("above", &transport.Auth{Source: numbered(time.Hour), Base: layer("below", base)}), http.StatusOK)
	for _, s := range tracetest.SpanStubsFromReadOnlySpans(recorder.Ended()) {
		if text := fmt.Sprintf("%+v", s); strings.Contains(text, "token-") {
			t.Errorf("a span has the token: %s", text)
		}
	}
}

// The request that makes the Cache refresh is the parent, though others may wait
// for the same refresh.
func TestATokenRequestIsAChildOfTheRequestThatNeededIt(t *testing.T) {
	layer, recorder := recording()
	endpoint := layer("token endpoint", new(api))
	cache := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://as.example/token", nil)
		if err != nil {
			return nil, err
		}
		resp, err := endpoint.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		return &tokensource.Token{AccessToken: "token-1"}, resp.Body.Close()
	})}
	wantStatus(t, layer("above", &transport.Auth{Source: cache, Base: new(api)}), http.StatusOK)
	if got, want := spans(recorder), []string{"above 200", "token endpoint 200 in above"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Auth sends tokens that are bound to a key only through a DPoP that is its own Base.
func TestNothingStandsBetweenAuthAndDPoP(t *testing.T) {
	bound := tokensource.Static(&tokensource.Token{AccessToken: "token-1", TokenType: "DPoP"})
	dpop := func(base http.RoundTripper) *transport.DPoP { return &transport.DPoP{Key: key, Base: base} }

	wantStatus(t, &transport.Auth{Source: bound, Base: dpop(newOtel(new(api)))}, http.StatusOK)

	if _, err := get(t, &transport.Auth{Source: bound, Base: newOtel(dpop(new(api)))}); err == nil || !strings.Contains(err.Error(), "DPoP") {
		t.Errorf("with a layer in between: got %v, want an error that names DPoP", err)
	}
}
