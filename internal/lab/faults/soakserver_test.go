package faults_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A soakAPI is an API that can be hurt while it serves: see soakfaults_test.go.
// It answers 200 only when the body has come whole, by its hash.
type soakAPI struct {
	soak     *soak
	url      string
	config   *tls.Config // nil for HTTP/1.1
	listener net.Listener
	accepted chan net.Conn
	wires    sync.Map // by the client's address, *wire: the client's ends
	early    sync.Map // addresses that were hit before their client's end was known
	struck   sync.Map // addresses that were hit, until they are used again
	hits     atomic.Int64
	refuses  atomic.Bool                   // every token
	latency  atomic.Int64                  // at most, of each request
	stall    atomic.Pointer[chan struct{}] // until it is closed, no connection moves

	mu      sync.Mutex // guards what follows
	current *generation
}

// A generation is the connections of a server until it is restarted.
type generation struct {
	api     *soakAPI
	server  *http.Server
	stopped chan struct{}

	mu    sync.Mutex // guards conns
	conns map[*stallable]struct{}
}

func newSoakAPI(s *soak, config *tls.Config) *soakAPI {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	a := &soakAPI{soak: s, config: config, listener: listener, accepted: make(chan net.Conn)}
	a.url = "http://" + listener.Addr().String()
	if config != nil {
		a.url = "https://" + listener.Addr().String()
	}
	go func() {
		defer close(a.accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			a.accepted <- conn
		}
	}()
	a.begin()
	return a
}

// begin starts a server on the listener that stays. Each changes its TLSConfig.
func (a *soakAPI) begin() {
	g := &generation{api: a, stopped: make(chan struct{}), conns: make(map[*stallable]struct{})}
	g.server = &http.Server{Handler: a, TLSConfig: a.config.Clone(), ErrorLog: log.New(io.Discard, "", 0)}
	a.mu.Lock()
	a.current = g
	a.mu.Unlock()
	if a.config != nil {
		go g.server.ServeTLS(g, "", "")
	} else {
		go g.server.Serve(g)
	}
}

// restart has another server take over at the same address. The old one says
// GOAWAY where it speaks HTTP/2, and then is gone.
func (a *soakAPI) restart() {
	a.mu.Lock()
	g := a.current
	a.mu.Unlock()
	close(g.stopped)
	a.begin()
	g.hit(1<<30, func(net.Conn) {})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	g.server.Shutdown(ctx)
	g.server.Close()
}

func (a *soakAPI) close() {
	a.listener.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current.server.Close()
}

// Accept returns the next connection, if it is for this generation.
func (g *generation) Accept() (net.Conn, error) {
	select {
	case <-g.stopped:
		return nil, net.ErrClosed
	default:
	}
	select {
	case <-g.stopped:
		return nil, net.ErrClosed
	case conn, ok := <-g.api.accepted:
		if !ok {
			return nil, net.ErrClosed
		}
		c := &stallable{Conn: conn, of: g}
		g.mu.Lock()
		g.conns[c] = struct{}{}
		g.mu.Unlock()
		select {
		case <-g.stopped: // it comes too late to be told that it goes down with the others
			g.api.tell(conn)
		default:
		}
		return c, nil
	}
}

func (g *generation) Close() error { return nil }

func (g *generation) Addr() net.Addr { return g.api.listener.Addr() }

// hit does something to so many connections, after it has told their clients'
// ends, by which errors are explained.
func (g *generation) hit(n int, do func(net.Conn)) {
	g.mu.Lock()
	var some []*stallable
	for c := range g.conns { // in random order
		if len(some) < n {
			some = append(some, c)
		}
	}
	g.mu.Unlock()
	for _, c := range some {
		g.api.tell(c)
		do(c.Conn)
	}
}

// tell tells the client's end of a connection that it is hit.
func (a *soakAPI) tell(conn net.Conn) {
	a.hits.Add(1)
	addr := conn.RemoteAddr().String()
	a.struck.Store(addr, nil)
	a.early.Store(addr, nil)
	if w, ok := a.wires.Load(addr); ok {
		a.early.Delete(addr)
		w.(*wire).hit.Store(true)
	}
}

// hit is that of the present generation.
func (a *soakAPI) hit(n int, do func(net.Conn)) {
	a.mu.Lock()
	g := a.current
	a.mu.Unlock()
	g.hit(n, do)
}

// A stallable is a server's end of a connection.
type stallable struct {
	net.Conn
	of *generation
}

func (c *stallable) wait() {
	if s := c.of.api.stall.Load(); s != nil {
		<-*s
	}
}

func (c *stallable) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wait()
	return n, err
}

func (c *stallable) Write(p []byte) (int, error) { c.wait(); return c.Conn.Write(p) }

func (c *stallable) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// ServeHTTP refuses by the authorization server of the moment, and else checks
// the body.
func (a *soakAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.refuses.Load() {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	a.soak.authority.Load().Protect(http.HandlerFunc(a.serve)).ServeHTTP(w, r)
}

func (a *soakAPI) serve(w http.ResponseWriter, r *http.Request) {
	if most := a.latency.Load(); most > 0 {
		select {
		case <-time.After(time.Duration(mathrand.Int64N(most))):
		case <-r.Context().Done():
		}
	}
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // not whole, and not accepted
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if want := r.Header.Get("X-Sum"); sum != want {
		a.soak.fail("a body arrived changed or short: %d bytes of %s with the sum %s, want %s", n, r.Header.Get("X-Size"), sum, want)
	}
	a.soak.verified.Add(n)
	io.WriteString(w, sum)
}

// A front is an address that stays while the authorization server behind it is
// replaced.
type front struct {
	net.Listener
	behind atomic.Pointer[tokentest.Server]
}

func newFront() *front {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	f := &front{Listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.forward(conn)
		}
	}()
	return f
}

// forward passes on what comes, and ends one side as the other was.
func (f *front) forward(conn net.Conn) {
	defer conn.Close()
	server, err := net.Dial("tcp4", f.behind.Load().URL[len("http://"):])
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		if _, err := io.Copy(server, conn); err != nil {
			server.Close()
		}
		server.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(conn, server); err != nil {
		resetConn(conn)
	}
}
