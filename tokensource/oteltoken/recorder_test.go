package oteltoken_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oteltoken"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
)

// A recording is a Recorder whose metrics and spans stay in memory.
type recording struct {
	oteltoken.Recorder
	reader *sdkmetric.ManualReader
	spans  *tracetest.InMemoryExporter
	tracer trace.Tracer // of the callers
}

func record() *recording {
	r := &recording{reader: sdkmetric.NewManualReader(), spans: tracetest.NewInMemoryExporter()}
	r.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans))
	r.TracerProvider, r.tracer = provider, provider.Tracer("test")
	return r
}

// call asks for a token in a span, and returns the span's context.
func (r *recording) call(ctx context.Context, source tokensource.Source, old *tokensource.Token) (trace.SpanContext, *tokensource.Token, error) {
	ctx, span := r.tracer.Start(ctx, "caller")
	defer span.End()
	token, err := source.Token(ctx, old)
	return span.SpanContext(), token, err
}

// refreshes returns the spans of refreshes.
func (r *recording) refreshes() (all tracetest.SpanStubs) {
	for _, s := range r.spans.GetSpans() {
		if s.Name == "token refresh" {
			all = append(all, s)
		}
	}
	return all
}

// links returns the names of the spans that link to a span.
func (r *recording) links(to trace.SpanContext) (n int) {
	for _, s := range r.spans.GetSpans() {
		for _, link := range s.Links {
			if link.SpanContext.SpanID() == to.SpanID() {
				n++
			}
		}
	}
	return n
}

// points returns the points of a metric: its attributes, and the number of values of a
// histogram or the sum of a counter.
func (r *recording) points(t *testing.T, name string) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	points := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					points[p.Attributes.Encoded(attribute.DefaultEncoder())] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					points[p.Attributes.Encoded(attribute.DefaultEncoder())] = int64(p.Count)
				}
			}
		}
	}
	return points
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// slow is a source that takes a second for token-1, token-2 and so on, or for err.
func slow(err error) tokensource.Source {
	n := 0
	return tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
		n++
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
		if err != nil {
			return nil, err
		}
		return &tokensource.Token{AccessToken: fmt.Sprint("token-", n), Expiry: time.Now().Add(100 * time.Second)}, nil
	})
}

func TestEachRequestThatWaitedLinksToTheRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow(nil)})
		first, token, _ := r.call(t.Context(), source, nil)
		var all sync.WaitGroup
		for range 7 { // wait for the refresh that the refusal causes
			all.Go(func() { r.call(t.Context(), source, token) })
		}
		all.Wait()
		r.call(t.Context(), source, nil) // waits for nothing
		synctest.Wait()
		refreshes := r.refreshes()
		if len(refreshes) != 2 {
			t.Fatalf("got %d refreshes, want 2", len(refreshes))
		}
		want(t, "links to the first", r.links(refreshes[0].SpanContext), 1)
		want(t, "links to the second", r.links(refreshes[1].SpanContext), 7)
		want(t, "parents", refreshes[0].Parent.IsValid() || refreshes[1].Parent.IsValid(), false)
		want(t, "what began the first", refreshes[0].Links[0].SpanContext.SpanID(), first.SpanID())
		want(t, "refreshes", r.points(t, "tokentripper.refresh.duration"),
			map[string]int64{"tokentripper.refresh.cause=expired": 1, "tokentripper.refresh.cause=refused": 1})
		want(t, "waiters", r.points(t, "tokentripper.refresh.waiters"),
			map[string]int64{"tokentripper.refresh.cause=expired": 1, "tokentripper.refresh.cause=refused": 7})
	})
}

func TestAnEarlyRefreshHasNoWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow(nil)})
		source.Token(t.Context(), nil)
		time.Sleep(95 * time.Second)
		r.call(t.Context(), source, nil)
		time.Sleep(2 * time.Second)
		want(t, "links to the refresh", r.links(r.refreshes()[1].SpanContext), 0)
		want(t, "what began it", len(r.refreshes()[1].Links), 1)
		want(t, "refreshes", r.points(t, "tokentripper.refresh.duration"),
			map[string]int64{"tokentripper.refresh.cause=early": 1, "tokentripper.refresh.cause=expired": 1})
	})
}

func TestACallerThatLeftLinksToTheRefreshThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow(nil)})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := r.call(ctx, source, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want its deadline", err)
		}
		time.Sleep(2 * time.Second)
		want(t, "links", r.links(r.refreshes()[0].SpanContext), 1)
		want(t, "error", r.refreshes()[0].Status.Code.String(), "Unset")
	})
}

func TestSpansOfTokenRequestsAreChildrenOfTheRefresh(t *testing.T) {
	r := record()
	var parent trace.SpanContext
	source := r.Source(&tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
		parent = trace.SpanContextFromContext(ctx)
		return &tokensource.Token{AccessToken: "token-1"}, nil
	})})
	r.call(t.Context(), source, nil)
	want(t, "parent", parent.SpanID(), r.refreshes()[0].SpanContext.SpanID())
}

// Each kind of an error, as docs/operating.md has it.
func TestAFailedRefreshTellsItsKind(t *testing.T) {
	for kind, err := range map[string]error{
		"login":    fmt.Errorf("no: %w", tokensource.ErrReauthenticate),
		"refused":  &tokensource.EndpointError{StatusCode: 400, Code: "invalid_client"},
		"endpoint": &tokensource.EndpointError{StatusCode: 503},
		"store":    &tokensource.StoreError{Op: "load", Err: errors.New("down")},
		"keys":     tokensource.ErrKeysFull,
		"left":     context.Canceled,
		"late":     context.DeadlineExceeded,
		"other":    errors.New("no route to host"),
	} {
		synctest.Test(t, func(t *testing.T) {
			r := record()
			source := r.Source(&tokensource.Cache{Source: slow(err), Patience: -1})
			r.call(t.Context(), source, nil)
			r.call(t.Context(), source, nil) // gets the remembered error
			synctest.Wait()
			want(t, "refreshes", r.points(t, "tokentripper.refresh.duration"),
				map[string]int64{"error.type=" + kind + ",tokentripper.refresh.cause=expired": 1})
			span := r.refreshes()[0]
			want(t, "attributes", span.Attributes, []attribute.KeyValue{attribute.String("error.type", kind)})
			want(t, "status", span.Status.Description, err)
			want(t, "links", r.links(span.SpanContext), 1)
		})
	}
}

func TestASourceThatPanicsEndsItsSpan(t *testing.T) {
	r := record()
	source := r.Source(&tokensource.Cache{Source: tokensource.Func(
		func(context.Context, *tokensource.Token) (*tokensource.Token, error) { panic("at the disco") })})
	if _, _, err := r.call(t.Context(), source, nil); err == nil {
		t.Error("got no error, want one")
	}
	want(t, "status", r.refreshes()[0].Status.Code.String(), "Error")
}

// The Cache must go on to see what a Source of its own can do.
func TestWhatASourceCanDoBesidesReachesIt(t *testing.T) {
	for name, c := range map[string]struct {
		source tokensource.Source
		spans  int
	}{
		"Stored":   {&tokensource.Stored{Source: slow(nil), Store: new(storetest.Memory), Key: "key"}, 1},
		"with Set": {&settable{Source: slow(nil)}, 0},
	} {
		r := record()
		source := r.Source(&tokensource.Cache{Source: c.source})
		if err := source.Set(t.Context(), &tokensource.Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		token, err := source.Token(t.Context(), &tokensource.Token{AccessToken: "login"})
		if err != nil || token.AccessToken != "token-1" {
			t.Errorf("%s: got %v and %v, want token-1", name, token, err)
		}
		want(t, name+": spans", len(r.refreshes()), c.spans)
		if s, ok := c.source.(*settable); ok {
			want(t, name+": Set", s.set, 1)
		}
	}
}

type settable struct {
	tokensource.Source
	set int
}

func (s *settable) Set(context.Context, *tokensource.Token) error { s.set++; return nil }

func TestAnOnRefreshOfTheCallersIsStillCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := 0
		cache := &tokensource.Cache{Source: slow(nil), OnRefresh: func(tokensource.Refresh) { called++ }}
		new(oteltoken.Recorder).Source(cache).Token(t.Context(), nil) // with the global providers
		synctest.Wait()
		want(t, "calls", called, 1)
	})
}

func TestRequestsAreCountedByWhatBecameOfThem(t *testing.T) {
	r := record()
	for _, answer := range []any{200, 401, 401, 2000, errors.New("reset"), context.Canceled} {
		rt := r.RoundTripper(oteltoken.Attempts, roundTrip(func(*http.Request) (*http.Response, error) {
			if status, ok := answer.(int); ok {
				return &http.Response{StatusCode: status, Body: http.NoBody}, nil
			}
			return nil, answer.(error)
		}))
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example", nil)
		rt.RoundTrip(req)
	}
	want(t, "requests", r.points(t, "tokentripper.requests"), map[string]int64{
		"http.response.status_code=200,tokentripper.layer=attempt": 1,
		"http.response.status_code=401,tokentripper.layer=attempt": 2,
		"http.response.status_code=0,tokentripper.layer=attempt":   1,
		"error.type=other,tokentripper.layer=attempt":              1,
		"error.type=left,tokentripper.layer=attempt":               1,
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestNothingThatIsRecordedHasATokenOrAURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := record()
		source := r.Source(&tokensource.Cache{Source: slow(nil)})
		auth := &transport.Auth{Source: source, Base: r.RoundTripper(oteltoken.Attempts, roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer token-1" {
				return &http.Response{StatusCode: 401, Body: http.NoBody}, nil
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		}))}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example/secret", nil)
		if _, err := r.RoundTripper(oteltoken.Requests, auth).RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var all metricdata.ResourceMetrics
		r.reader.Collect(t.Context(), &all)
		text := fmt.Sprintf("%+v %+v %+v", r.spans.GetSpans(), all, source)
		exported, _ := json.Marshal(all)
		for _, secret := range []string{"token-1", "token-2", "api.example", "secret"} {
			if strings.Contains(text, secret) || bytes.Contains(exported, []byte(secret)) {
				t.Errorf("%q is in what was recorded", secret)
			}
		}
	})
}

func TestRoundTripperKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{New: func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper {
		return record().RoundTripper(oteltoken.Attempts, base)
	}})
}
