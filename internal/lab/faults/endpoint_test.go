package faults_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A tokenEndpoint is one that a test breaks and mends.
type tokenEndpoint struct {
	t        *testing.T
	cache    *tokensource.Cache
	base     *http.Transport
	requests atomic.Int32 // connections, as a rule, for those that break do not last
}

func (e *tokenEndpoint) init(t *testing.T, url string, base *http.Transport) {
	e.t, e.base = t, base
	e.cache = &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		URL: url, ClientID: "client", ClientSecret: secret, Client: &http.Client{Transport: base},
	}}}
	t.Cleanup(base.CloseIdleConnections)
}

const secret = "a-secret-of-the-client"

const goodReply = `{"access_token":"a-long-access-token","token_type":"Bearer","expires_in":3600}`

// fails asks for a token over and over. It checks that there is none, that few
// of the calls reached the endpoint, and that a request through Auth is not sent
// and shows no secret.
func (e *tokenEndpoint) fails() error {
	e.t.Helper()
	_, err := e.cache.Token(e.t.Context(), nil)
	if err == nil {
		e.t.Fatal("got a token, want an error")
	}
	for range 1000 {
		e.cache.Token(e.t.Context(), nil)
	}
	if n := e.requests.Load(); n > 50 {
		e.t.Errorf("the endpoint was asked %d times for 1000 calls, want a few", n)
	}
	auth := &transport.Auth{Source: e.cache, Base: roundTripper(func(*http.Request) (*http.Response, error) {
		e.t.Error("a request was sent without a token")
		return nil, errors.ErrUnsupported
	})}
	req, _ := http.NewRequest(http.MethodPost, "https://api.example.com", strings.NewReader("body"))
	_, got := auth.RoundTrip(req)
	if ours, ok := errors.AsType[*transport.Error](got); !ok || ours.StatusCode != 0 {
		e.t.Errorf("got %v through Auth, want a *transport.Error with no status", got)
	}
	if strings.Contains(fmt.Sprintf("%+v %+v", err, got), secret) {
		e.t.Errorf("the error shows the secret: %v", got)
	}
	return err
}

// recovers checks that the token comes by itself once the endpoint is mended.
func (e *tokenEndpoint) recovers() {
	e.t.Helper()
	var err error
	if !eventually(func() bool { _, err = e.cache.Token(e.t.Context(), nil); return err == nil }) {
		e.t.Errorf("got %v though the endpoint is mended", err)
		return
	}
	if token, _ := e.cache.Token(e.t.Context(), nil); token.AccessToken != "a-long-access-token" {
		e.t.Errorf("got the token %q, want %q", token.AccessToken, "a-long-access-token")
	}
}

// A rawEndpoint answers with bytes.
type rawEndpoint struct {
	tokenEndpoint
	answer atomic.Pointer[func(net.Conn)]
}

func serveRaw(t *testing.T, answer func(net.Conn)) *rawEndpoint {
	leavesNothing(t)
	e := new(rawEndpoint)
	e.set(answer)
	addr := serveTCP(t, func(conn net.Conn) {
		e.requests.Add(1)
		if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.Copy(io.Discard, req.Body)
			(*e.answer.Load())(conn)
		}
	})
	e.init(t, "http://"+addr, new(http.Transport))
	return e
}

func (e *rawEndpoint) set(answer func(net.Conn)) { e.answer.Store(&answer) }

// says answers with a text and hangs up.
func says(text string) func(net.Conn) { return func(conn net.Conn) { io.WriteString(conn, text) } }

// sized is an answer with a token that says that it is so long.
func sized(length int, body string) func(net.Conn) {
	return says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length, body))
}

var good = sized(len(goodReply), goodReply)

const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

func TestAnEndpointWhoseAnswerIsNotWholeGivesNoToken(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func(net.Conn)
		replied bool // there are a status and headers, so the error is an EndpointError
	}{
		"no answer":                    {says(""), false},
		"reset":                        {resetConn, false},
		"half the headers":             {says(head[:30]), false},
		"no HTTP":                      {says("220 ready\r\n\r\n"), false},
		"a flood of 1xx":               {says(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1e6)), false},
		"12 MB of headers":             {says(head + strings.Repeat("X-Large: "+strings.Repeat("x", kib)+"\r\n", 12*kib) + "\r\n" + goodReply), false},
		"headers and no body":          {sized(len(goodReply), ""), true},
		"half a body":                  {sized(len(goodReply), goodReply[:40]), true},
		"half a body, reset":           {func(conn net.Conn) { sized(len(goodReply), goodReply[:40])(conn); resetConn(conn) }, true},
		"a whole body, said longer":    {sized(len(goodReply)+1, goodReply), true},
		"a whole body, said shorter":   {sized(40, goodReply), true},
		"half a body without length":   {says("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + goodReply[:40]), true},
		"a chunk of it":                {says(head + "Transfer-Encoding: chunked\r\n\r\n28\r\n" + goodReply[:40] + "\r\n"), true},
		"all of it but the last chunk": {says(head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(goodReply), goodReply)), true},
		"half a gzip":                  {says(head + "Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits
			e := serveRaw(t, c.answer)
			err := e.fails()
			if _, replied := errors.AsType[*tokensource.EndpointError](err); replied != c.replied && name != "half a body, reset" {
				t.Errorf("got %v, want a *tokensource.EndpointError: %v", err, c.replied)
			}
			e.set(good)
			e.recovers()
		})
	}
}

// drip sends a text byte by byte and then, for as long as anybody listens, spaces:
// a server that has not hung, and never finishes.
func drip(text string, began func()) func(net.Conn) {
	return func(conn net.Conn) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for rest := text; ; {
			next := " "
			if rest != "" {
				next, rest = rest[:1], rest[1:]
			}
			if _, err := io.WriteString(conn, next); err != nil {
				return
			}
			began()
			<-tick.C
		}
	}
}

// Ways to drip: in the headers, in a body with a length, in one without.
var drips = map[string]string{
	"headers": "HTTP/1.1 200 OK\r\nX-Slow: ",
	"body":    head + "Content-Length: 100000\r\n\r\n{",
	"chunks":  head + "Transfer-Encoding: chunked\r\n\r\nfff\r\n{",
}

func TestAnEndpointThatDripsForEverIsBoundedByTheTimeout(t *testing.T) {
	for name, text := range drips {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits
			e := serveRaw(t, drip(text, func() {}))
			e.cache.Timeout = 200 * time.Millisecond
			if err := e.fails(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want context.DeadlineExceeded", err)
			}
			e.set(good)
			e.recovers()
		})
	}
}

func TestAWaiterLeavesAnEndpointThatDripsAtItsOwnTime(t *testing.T) {
	for name, text := range drips {
		t.Run(name, func(t *testing.T) {
			dripping := make(chan struct{})
			e := serveRaw(t, drip(text, sync.OnceFunc(func() { close(dripping) })))
			patient := make(chan error)
			go func() { _, err := e.cache.Token(t.Context(), nil); patient <- err }()
			<-dripping
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := e.cache.Token(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the waiter's own context.DeadlineExceeded", err)
			}
			select {
			case err := <-patient:
				t.Errorf("the other waiter got %v, want it to wait still", err)
			default:
			}
			e.set(good)
			login := &tokensource.Token{AccessToken: "of-the-login"}
			e.cache.Set(t.Context(), login) // ends it
			if err := <-patient; err != nil {
				t.Errorf("the other waiter got %v, want the token of the login", err)
			}
			if got, err := e.cache.Token(t.Context(), login); err != nil || got.AccessToken != "a-long-access-token" {
				t.Errorf("then: got %v and %v, want the mended endpoint's token", got, err)
			}
		})
	}
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() *authority {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a := &authority{&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}, key}
	der, _ := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

// sign returns the server side of TLS with a certificate.
func (a *authority) sign(leaf x509.Certificate) *tls.Config {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leaf.SerialNumber = big.NewInt(2)
	der, err := x509.CreateCertificate(rand.Reader, &leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func loopback(until time.Duration) x509.Certificate {
	return x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(until)}
}

// A tlsEndpoint greets each client as is said.
type tlsEndpoint struct {
	tokenEndpoint
	greet atomic.Pointer[greeting]
}

type greeting func(*tls.ClientHelloInfo) (*tls.Config, error)

func serveTLS(t *testing.T, trusted *authority, greet greeting) *tlsEndpoint {
	leavesNothing(t)
	e := new(tlsEndpoint)
	e.greet.Store(&greet)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, goodReply)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		e.requests.Add(1)
		return (*e.greet.Load())(hello)
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(trusted.cert)
	e.init(t, server.URL, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}})
	return e
}

func with(config *tls.Config) greeting {
	return func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil }
}

func is[E error](err error) bool { _, ok := errors.AsType[E](err); return ok }

func TestATLSFailureAtTheEndpointIsTypedAndPassesByItself(t *testing.T) {
	trusted := newAuthority()
	mended := with(trusted.sign(loopback(time.Hour)))
	for name, c := range map[string]struct {
		greet greeting
		typed func(error) bool
	}{
		"unknown authority": {with(newAuthority().sign(loopback(time.Hour))), is[x509.UnknownAuthorityError]},
		"another name":      {with(trusted.sign(x509.Certificate{DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)})), is[x509.HostnameError]},
		"expired":           {with(trusted.sign(loopback(-time.Hour))), is[x509.CertificateInvalidError]},
		"an alert": {func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("no") },
			is[*net.OpError]},
		"no TLS": {func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			says("HTTP/1.0 400 Bad Request\r\n\r\n")(hello.Conn)
			return nil, hello.Conn.Close()
		}, func(err error) bool {
			return is[tls.RecordHeaderError](err) || strings.Contains(err.Error(), "HTTP response to HTTPS client")
		}},
		"closed": {func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return nil, hello.Conn.Close() },
			func(err error) bool { return errors.Is(err, io.EOF) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits
			e := serveTLS(t, trusted, c.greet)
			if err := e.fails(); !c.typed(err) {
				t.Errorf("got %v (%T), want another type", err, err)
			}
			e.greet.Store(&mended)
			e.recovers()
		})
	}
}

func TestAHandshakeThatStallsIsBoundedByTheTimeout(t *testing.T) {
	trusted := newAuthority()
	mended := with(trusted.sign(loopback(time.Hour)))
	e := serveTLS(t, trusted, func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		_, err := io.Copy(io.Discard, hello.Conn) // until the client is gone
		return nil, cmp.Or(err, io.EOF)
	})
	e.cache.Timeout = 200 * time.Millisecond
	if err := e.fails(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	e.greet.Store(&mended)
	e.recovers()
}
