package faults_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A fault is what an API does to a request instead of answering it well. It
// returns false if it leaves the request alone.
type fault func(w http.ResponseWriter, r *http.Request) bool

// An api refuses the token "old", once it has the body, and answers others with
// the body's sum. A fault comes before that.
type api struct {
	protocol, url string
	server        *httptest.Server
	connections   sync.Map // of net.Conn: those that are open

	mu    sync.Mutex
	fault fault
}

type connKey struct{}

func serveAPI(t *testing.T, protocol string) *api {
	a := &api{protocol: protocol}
	a.server = httptest.NewUnstartedServer(a)
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	a.server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			a.connections.Store(conn, nil)
		case http.StateClosed:
			a.connections.Delete(conn)
		}
	}
	if protocol == "HTTP/2" {
		a.server.EnableHTTP2 = true
		a.server.StartTLS()
	} else {
		a.server.Start()
	}
	a.url = a.server.URL
	t.Cleanup(a.server.Close)
	return a
}

// set puts a fault in place; nil ends it.
func (a *api) set(f fault) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = f
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	f := a.fault
	a.mu.Unlock()
	http.NewResponseController(w).EnableFullDuplex()
	if f != nil && f(w, r) {
		return
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	if old(r) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "%x", hash.Sum(nil))
}

// old reports whether it is the first attempt that has come.
func old(r *http.Request) bool { return strings.HasSuffix(r.Header.Get("Authorization"), " old") }

// refuse answers 401 before the request has come whole, without a body.
func refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusUnauthorized)
	http.NewResponseController(w).Flush()
}

// reset resets the connection of a request, and hangUp closes it as if the
// server were done. Neither answers.
func reset(r *http.Request) { resetConn(r.Context().Value(connKey{}).(net.Conn)) }

func hangUp(r *http.Request) { r.Context().Value(connKey{}).(net.Conn).Close() }

// resetConn makes the other side see a reset instead of an orderly end.
func resetConn(conn net.Conn) {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS would say good-bye first
		conn = over.NetConn()
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// hangUpAll closes all connections.
func (a *api) hangUpAll() {
	for conn := range a.connections.Range {
		conn.(net.Conn).Close()
	}
}
