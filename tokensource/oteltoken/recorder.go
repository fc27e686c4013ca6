// Package oteltoken records token refreshes and the requests around them with
// OpenTelemetry. Make a [Recorder] and put it at each place that you want to watch:
//
//	recorder := new(oteltoken.Recorder)
//	endpoint.Client = &http.Client{Transport: recorder.RoundTripper(oteltoken.TokenRequests, nil)}
//	source := recorder.Source(cache)
//	auth := &transport.Auth{Source: source, Base: recorder.RoundTripper(oteltoken.Attempts, nil)}
//	client := &http.Client{Transport: recorder.RoundTripper(oteltoken.Requests, auth)}
//
// These are its metrics. Attributes with names of the semantic conventions have their
// meaning there.
//
//	tokentripper.refresh.duration  histogram, s        tokentripper.refresh.cause: early, expired or refused
//	                                                   error.type: only of a failed refresh
//	tokentripper.refresh.waiters   counter, {request}  tokentripper.refresh.cause
//	tokentripper.requests          counter, {request}  tokentripper.layer: see Layer
//	                                                   http.response.status_code: only of an answer
//	                                                   error.type: only without an answer
//
// The values of error.type are those of kind in docs/operating.md: login, refused,
// endpoint, store, keys, left, late and other. docs/operating.md also says which values
// are good.
//
// No metric and no span has a token, a header, a URL or a user. The status of the span
// of a failed refresh has the error's text, which holds no secret if the sources are
// those of package tokensource.
package oteltoken

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A Recorder records in the instruments of its providers. It is safe for concurrent
// use. You must not change its fields, or copy it, once it is in use.
type Recorder struct {
	// MeterProvider gets the metrics. Nil means otel.GetMeterProvider().
	MeterProvider metric.MeterProvider

	// TracerProvider gets the spans of refreshes. Nil means otel.GetTracerProvider().
	TracerProvider trace.TracerProvider

	once     sync.Once
	tracer   trace.Tracer
	duration metric.Float64Histogram
	waiters  metric.Int64Counter
	requests metric.Int64Counter
}

const scope = "github.com/tokentripper/tokentripper/tokensource/oteltoken"

// ready makes the instruments. An error that the SDK returns beside an instrument goes
// to OpenTelemetry's error handler, and the instrument is used.
func (r *Recorder) ready() *Recorder {
	r.once.Do(func() {
		tracers, meters := r.TracerProvider, r.MeterProvider
		if tracers == nil {
			tracers = otel.GetTracerProvider()
		}
		if meters == nil {
			meters = otel.GetMeterProvider()
		}
		r.tracer = tracers.Tracer(scope)
		meter := meters.Meter(scope)
		var errs [3]error
		r.duration, errs[0] = meter.Float64Histogram("tokentripper.refresh.duration", metric.WithUnit("s"),
			metric.WithDescription("Duration of token refreshes."),
			metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30))
		r.waiters, errs[1] = meter.Int64Counter("tokentripper.refresh.waiters", metric.WithUnit("{request}"),
			metric.WithDescription("Requests that waited for a token refresh."))
		r.requests, errs[2] = meter.Int64Counter("tokentripper.requests", metric.WithUnit("{request}"),
			metric.WithDescription("Requests that passed through a layer, by what became of them."))
		if err := errors.Join(errs[:]...); err != nil {
			otel.Handle(err)
		}
	})
	return r
}

// handlePanic keeps a panic, such as that of a span processor, from ending a refresh
// whose refresh token is spent. Defer it.
func handlePanic() {
	if p := recover(); p != nil {
		otel.Handle(fmt.Errorf("oteltoken: recording panicked: %v", p))
	}
}

// refreshed records a refresh.
func (r *Recorder) refreshed(refresh tokensource.Refresh) {
	defer handlePanic()
	ctx := context.Background()
	cause := attribute.String("tokentripper.refresh.cause", string(refresh.Cause))
	r.waiters.Add(ctx, int64(refresh.Waiters), metric.WithAttributes(cause))
	attributes := []attribute.KeyValue{cause}
	if refresh.Err != nil {
		attributes = append(attributes, errorType(refresh.Err))
	}
	r.duration.Record(ctx, refresh.Duration.Seconds(), metric.WithAttributes(attributes...))
}

// errorType returns what an error is about, in few different values.
func errorType(err error) attribute.KeyValue { return attribute.String("error.type", kind(err)) }

func kind(err error) string {
	refusal, answered := errors.AsType[*tokensource.EndpointError](err)
	_, store := errors.AsType[*tokensource.StoreError](err)
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		return "login"
	case errors.Is(err, tokensource.ErrKeysFull):
		return "keys"
	case store:
		return "store"
	case answered && refusal.StatusCode < 500 && refusal.StatusCode != http.StatusTooManyRequests:
		return "refused"
	case answered:
		return "endpoint"
	case errors.Is(err, context.Canceled):
		return "left"
	case errors.Is(err, context.DeadlineExceeded):
		return "late"
	}
	return "other"
}
