package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// A world is what one peer is measured in: servers on loopback, and the base
// that leads to them. The servers have a process of their own: in the peer's
// they would stand in line behind ten thousand callers, and what they allocate
// would count as the peer's. If that process fails, the methods panic.
type world struct {
	Addresses
	base *base

	conduct Conduct
	process *exec.Cmd
	control *rpc.Client
}

// base is what every peer sends all its requests through.
type base struct{ http.RoundTripper }

// limit bounds the connections to each server, for the peers and the base alike:
// ten thousand at once are more than a machine takes.
func (w *world) limit() { w.base.RoundTripper.(*http.Transport).MaxConnsPerHost = maxConns }

const maxConns = 256

// newWorld starts the servers. The caller closes the world.
func newWorld() *world { return startWorld(false) }

// newSecureWorld starts a world whose authorization server speaks TLS, and
// whose API does so, too, at Secure.
func newSecureWorld() *world { return startWorld(true) }

func startWorld(secure bool) *world {
	self := must(os.Executable())
	w := &world{conduct: newServers().conduct, process: exec.Command(self, serveArg)}
	w.process.Stderr = os.Stderr
	in, out := must(w.process.StdinPipe()), must(w.process.StdoutPipe())
	must(0, w.process.Start())
	w.control = rpc.NewClient(pipes{out, in})
	w.call("Start", secure, &w.Addresses)
	transport := &http.Transport{MaxIdleConnsPerHost: maxConns, IdleConnTimeout: time.Minute}
	if secure {
		roots := x509.NewCertPool()
		roots.AddCert(must(x509.ParseCertificate(w.Certificate)))
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	w.base = &base{transport}
	return w
}

// pipes are a connection between two processes.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// close ends everything.
func (w *world) close() {
	if c, ok := w.base.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
	w.control.Close()
	must(0, w.process.Wait())
}

// call has the servers do something: see [Control].
func (w *world) call(method string, args, reply any) {
	must(0, w.control.Call("Control."+method, args, reply))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// set changes how the servers behave.
func (w *world) set(change func(*Conduct)) {
	change(&w.conduct)
	w.call("Set", w.conduct, nil)
}

// counts tell what the servers have seen.
func (w *world) counts() (c Counts) {
	w.call("Count", None{}, &c)
	return c
}

// tokenRequests tells how many there were.
func (w *world) tokenRequests() int { return w.counts().TokenRequests }

// revoke ends all access tokens.
func (w *world) revoke() { w.call("Revoke", None{}, nil) }

// login makes a refresh token.
func (w *world) login() (token string) {
	w.call("Login", None{}, &token)
	return token
}

// client sends through the base alone: the peers' token requests.
func (w *world) client() *http.Client { return &http.Client{Transport: w.base} }
