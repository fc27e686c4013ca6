package main

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"
)

// A world is what one peer is measured in: an authorization server that speaks
// the protocols of all of them, an API that takes its tokens, and a server
// elsewhere that is to see none. All are real, and listen on loopback.
type world struct {
	issuer
	api

	auth      *httptest.Server
	plain     *httptest.Server // the API
	secure    *httptest.Server // the API over TLS; nil if nobody has asked for it
	elsewhere *httptest.Server
	base      *base
}

// base is what every peer sends all its requests through.
type base struct{ http.RoundTripper }

// limit bounds the connections to each server, for the peers and the base alike:
// ten thousand at once are more than a machine takes.
func (w *world) limit() { w.base.RoundTripper.(*http.Transport).MaxConnsPerHost = maxConns }

const maxConns = 256

// newWorld starts the servers. The caller closes the world.
func newWorld() *world {
	w := &world{base: &base{newTransport()}}
	w.issuer.init()
	w.auth = serve(w.issuer.handler(), (*httptest.Server).Start)
	w.plain = serve(w.handler(), (*httptest.Server).Start)
	w.elsewhere = serve(http.HandlerFunc(w.serveElsewhere), (*httptest.Server).Start)
	return w
}

// newSecureWorld starts a world whose authorization server speaks TLS, and
// whose API does so, too, at secure.
func newSecureWorld() *world {
	w := newWorld()
	w.auth.Close()
	w.auth = serve(w.issuer.handler(), (*httptest.Server).StartTLS)
	w.secure = serve(w.handler(), (*httptest.Server).StartTLS)
	// Each server has the same certificate, made by httptest.
	transport := newTransport()
	transport.TLSClientConfig = &tls.Config{RootCAs: w.secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	w.base.RoundTripper = transport
	return w
}

func serve(h http.Handler, start func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // callers that give up are what some scenarios are about
	start(s)
	return s
}

func newTransport() *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: maxConns,
		IdleConnTimeout:     time.Minute,
	}
}

// close ends everything.
func (w *world) close() {
	if c, ok := w.base.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
	for _, s := range []*httptest.Server{w.auth, w.plain, w.secure, w.elsewhere} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

// client sends through the base alone: the peers' token requests.
func (w *world) client() *http.Client { return &http.Client{Transport: w.base} }
