package oteltoken

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A Source is a Cache that links the spans of its callers to the refreshes that they
// waited for. Make it with [Recorder.Source].
type Source struct {
	*tokensource.Cache
	begun, ended atomic.Pointer[trace.SpanContext] // the last refresh that began, and that ended
}

// Source records the refreshes of a Cache. It changes the Cache, so call it once, before
// the Cache is in use. An OnRefresh of yours is called as before.
//
// Each refresh has a span "token refresh", the root of a trace, because many requests
// may wait for it. It links to the span of the request that began it. A span in the
// context of [Source.Token], such as that of otelhttp above Auth, gets a link to the
// refresh that it waited for. Spans of token requests, such as those of otelhttp below
// Endpoint.Client, are children of the refresh.
//
// If the Cache's Source has a Set, Forget or Replace method and is not a
// [tokensource.Stored], its refreshes have metrics but no spans.
//
// A panic of OpenTelemetry while it records a refresh, such as that of a span processor,
// goes to its error handler.
//
// For the Caches of a [tokensource.Keyed], use [Keyed].
func (r *Recorder) Source(cache *tokensource.Cache) *Source {
	r.ready()
	s := &Source{Cache: cache}
	before := cache.OnRefresh
	cache.OnRefresh = func(refresh tokensource.Refresh) {
		r.refreshed(refresh)
		if before != nil {
			before(refresh)
		}
	}
	traced := &traced{cache.Source, r.tracer, s}
	switch source := cache.Source.(type) {
	case nil, setter, forgetter, replacer: // the Cache would miss them in a traced
		if stored, ok := source.(*tokensource.Stored); ok {
			cache.Source = &tracedStored{stored, traced}
		}
	default:
		cache.Source = traced
	}
	return s
}

type (
	setter interface {
		Set(context.Context, *tokensource.Token) error
	}
	forgetter interface{ Forget(context.Context) error }
	replacer  interface {
		Replace(ctx context.Context, old, next *tokensource.Token) error
	}
)

// Token returns what the Cache's Token returns. It allocates nothing unless the caller
// waited.
func (s *Source) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if !records(ctx) {
		return s.Cache.Token(ctx, old)
	}
	return linked(ctx, s.Cache.Token, old, func() *Source { return s })
}

// records reports whether ctx has a span that may get a link.
func records(ctx context.Context) bool {
	return trace.SpanFromContext(ctx).IsRecording() && ctx.Err() == nil // or it will not wait
}

// linked asks for a token. It links the span of ctx to the refresh of the source that it
// waited for. The source may be made meanwhile.
func linked(ctx context.Context, ask tokensource.Func, old *tokensource.Token, source func() *Source) (*tokensource.Token, error) {
	before, _ := source().refreshes()
	token, err := ask(ctx, old)
	refresh, begun := source().refreshes()
	if err != nil {
		refresh = begun // it may go on, without the caller
	}
	if refresh != nil && refresh != before {
		trace.SpanFromContext(ctx).AddLink(trace.Link{SpanContext: *refresh})
	}
	return token, err
}

// refreshes returns the last refresh that ended, and the last that began. Nil means none.
func (s *Source) refreshes() (ended, begun *trace.SpanContext) {
	if s == nil {
		return nil, nil
	}
	return s.ended.Load(), s.begun.Load()
}

// A traced source has a span for each call.
type traced struct {
	source   tokensource.Source
	tracer   trace.Tracer
	observed *Source
}

// A tracedStored is a Stored that is traced: the Cache uses more of it than Token.
type tracedStored struct {
	*tokensource.Stored
	traced *traced
}

// Token implements tokensource.Source.
func (s *tracedStored) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	return s.traced.Token(ctx, old)
}

var errEnded = errors.New("the source did not return")

// Token implements tokensource.Source.
func (t *traced) Token(ctx context.Context, old *tokensource.Token) (token *tokensource.Token, err error) {
	ctx, span := t.start(ctx)
	refresh := span.SpanContext()
	t.observed.begun.Store(&refresh)
	err = errEnded // if the source panics
	defer func() {
		end(span, err)
		t.observed.ended.Store(&refresh)
	}()
	return t.source.Token(ctx, old)
}

// start starts the span of a refresh.
func (t *traced) start(ctx context.Context) (inSpan context.Context, span trace.Span) {
	inSpan, span = ctx, trace.SpanFromContext(context.Background()) // if OpenTelemetry panics
	defer handlePanic()
	options := []trace.SpanStartOption{trace.WithNewRoot()}
	if link := trace.LinkFromContext(ctx); link.SpanContext.IsValid() {
		options = append(options, trace.WithLinks(link))
	}
	return t.tracer.Start(ctx, "token refresh", options...)
}

// end ends the span of a refresh, also if err panics, as a nil pointer in it does.
func end(span trace.Span, err error) {
	defer handlePanic()
	defer span.End()
	if err != nil {
		span.SetAttributes(errorType(err))
		span.SetStatus(codes.Error, err.Error())
	}
}
