//go:build !race

package http3

import (
	"crypto/tls"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// Not with the race detector, because of quic-go/quic-go#4303.

// A request in 0-RTT data is sent again like others, by its own method.
func TestARefused0RTTRequestIsSentAgain(t *testing.T) {
	var early atomic.Int32
	url, base, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.TLS.HandshakeComplete {
			early.Add(1)
		}
		refusing(0)(w, r)
	}))
	base.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	for range 50 { // until the server is faster with a request than with the handshake
		req := post(t, url, nil)
		req.Method = http3.MethodGet0RTT
		gets(t, authOver(base), req, "200 "+sumOf(0))
		if early.Load() > 0 {
			return
		}
		base.CloseIdleConnections() // the next one resumes the session
	}
	t.Error("no request of 50 came before the handshake was complete, want one")
}
