package oteltoken_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oteltoken"
)

// A panicking processor panics when a span starts or ends.
type panicking struct {
	sdktrace.SpanProcessor
	atStart bool
}

func (p panicking) OnStart(context.Context, sdktrace.ReadWriteSpan) {
	if p.atStart {
		panic("at the start")
	}
}

func (p panicking) OnEnd(sdktrace.ReadOnlySpan) { panic("at the end") }

// A new refresh token would be lost, and with it the login.
func TestAPanicOfASpanProcessorLosesNoToken(t *testing.T) {
	for _, atStart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
			r := record()
			r.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(panicking{atStart: atStart}))
			source := r.Source(&tokensource.Cache{Source: slow(nil)})
			if token, err := source.Token(t.Context(), nil); err != nil || token.AccessToken != "token-1" {
				t.Errorf("at the start %t: got %v and the error %v, want the source's first token", atStart, token, err)
			}
		})
	}
}

func TestASpanEndsEvenIfItsErrorIsANilPointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow((*tokensource.EndpointError)(nil)), Patience: -1})
		if _, err := source.Token(t.Context(), nil); err == nil {
			t.Error("got no error")
		}
		want(t, "ended spans", len(r.refreshes()), 1)
	})
}

// The server of each layer answers with all statuses that net/http accepts. Beyond 2000
// attribute sets the SDK would lump them together.
func TestNoServerExhaustsTheSetsOfAttributes(t *testing.T) {
	r := record()
	for _, layer := range []oteltoken.Layer{oteltoken.Requests, oteltoken.Attempts, oteltoken.TokenRequests} {
		status := 0
		counted := r.RoundTripper(layer, roundTrip(func(*http.Request) (*http.Response, error) {
			status++
			return &http.Response{StatusCode: status}, nil
		}))
		for range 1000 {
			counted.RoundTrip(new(http.Request))
		}
	}
	want(t, "attribute sets", len(r.points(t, "tokentripper.requests")), 3*501)
}

// An early refresh is in progress, which the caller would not wait for.
func TestACallerWhoseContextHasEndedLinksToNoRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow(nil)})
		source.Token(t.Context(), nil)
		time.Sleep(95 * time.Second)
		source.Token(t.Context(), nil)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		token, _ := source.Token(t.Context(), nil)
		if _, _, err := r.call(ctx, source, token); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that its context has ended", err)
		}
		time.Sleep(2 * time.Second)
		want(t, "links to the refresh", r.links(r.refreshes()[1].SpanContext), 0)
	})
}
