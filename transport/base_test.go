package transport_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

// A closer counts how often it is told to close idle connections.
type closer struct {
	http.RoundTripper
	told atomic.Int32
}

func (c *closer) CloseIdleConnections() { c.told.Add(1) }

func TestCloseIdleConnectionsReachesABaseThatHasIt(t *testing.T) {
	base := new(closer)
	(&http.Client{Transport: &transport.Auth{Base: &transport.DPoP{Base: base}}}).CloseIdleConnections()
	if n := base.told.Load(); n != 1 {
		t.Errorf("the base was told %d times, want 1", n)
	}
	(&transport.Auth{Base: layer{base}}).CloseIdleConnections()
	if n := base.told.Load(); n != 2 {
		t.Errorf("through a layer the base was told %d times more, want 1", n-1)
	}
	(&transport.Auth{Base: roundTrip(nil)}).CloseIdleConnections() // has none
}

func TestTheLayerBelowIsTheBaseOrNetHTTPsOwn(t *testing.T) {
	base := new(http.Transport)
	for _, c := range []struct{ got, want http.RoundTripper }{
		{(&transport.Auth{Base: base}).WrappedRoundTripper(), base},
		{(&transport.DPoP{Base: base}).WrappedRoundTripper(), base},
		{new(transport.Auth).WrappedRoundTripper(), http.DefaultTransport},
		{new(transport.DPoP).WrappedRoundTripper(), http.DefaultTransport},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// A layer shows what is below it, and has no other method.
type layer struct{ http.RoundTripper }

func (l layer) WrappedRoundTripper() http.RoundTripper { return l.RoundTripper }
