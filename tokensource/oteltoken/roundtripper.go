package oteltoken

import (
	"context"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// A Layer is a place where requests are counted, the value of tokentripper.layer.
type Layer string

const (
	Requests      Layer = "request"       // above Auth: what callers get
	Attempts      Layer = "attempt"       // below Auth, and below a DPoP if there is one
	TokenRequests Layer = "token_request" // below Endpoint.Client, and below its DPoP
)

// RoundTripper counts the requests that pass through it on the way to base, by their
// answers. A status outside of 100 to 599 counts as 0, so that no server exhausts the
// SDK's limit of 2000 attribute sets. A nil base means http.DefaultTransport. It changes
// nothing, and allocates nothing for answers with a status that it has seen before.
func (r *Recorder) RoundTripper(layer Layer, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &counter{requests: r.ready().requests, layer: attribute.String("tokentripper.layer", string(layer)), base: base}
}

// A counter counts answers by their status.
type counter struct {
	requests metric.Int64Counter
	layer    attribute.KeyValue
	base     http.RoundTripper
	statuses [600]atomic.Pointer[[]metric.AddOption] // made when a status first comes
}

// RoundTrip implements http.RoundTripper.
func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	switch {
	case err != nil:
		c.requests.Add(req.Context(), 1, metric.WithAttributes(c.layer, errorType(err)))
	case resp != nil:
		c.answered(req.Context(), resp.StatusCode)
	}
	return resp, err
}

func (c *counter) answered(ctx context.Context, status int) {
	if status < 100 || status >= len(c.statuses) {
		status = 0
	}
	options := c.statuses[status].Load()
	if options == nil {
		options = &[]metric.AddOption{metric.WithAttributeSet(attribute.NewSet(c.layer, attribute.Int("http.response.status_code", status)))}
		c.statuses[status].Store(options)
	}
	c.requests.Add(ctx, 1, *options...)
}

// WrappedRoundTripper returns the base, for code that looks for the http.Transport.
func (c *counter) WrappedRoundTripper() http.RoundTripper { return c.base }

// CloseIdleConnections closes the idle connections of the base, if it can close them.
func (c *counter) CloseIdleConnections() { (&http.Client{Transport: c.base}).CloseIdleConnections() }
