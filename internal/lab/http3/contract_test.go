package http3

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"maps"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// serve starts a server on a network in memory.
func serve(h http.Handler, dialed func() (closed func())) contract.Server {
	router := new(simnet.PerfectRouter)
	address := &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}
	listening := simnet.NewBlockingSimConn(address, router)
	server := &http3.Server{Handler: h, TLSConfig: serverTLS}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(listening) }()
	var clients atomic.Int32
	return contract.Server{
		Close: func() { server.Close(); <-served; listening.Close() },
		Base: func() http.RoundTripper {
			from := simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 1, byte(clients.Add(1))), Port: 1}, router)
			over := &quic.Transport{Conn: from}
			return &base{over, &http3.Transport{
				TLSClientConfig: clientTLS,
				Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
					conn, err := over.DialEarly(ctx, address, tlsConfig, config)
					if err == nil {
						context.AfterFunc(conn.Context(), dialed())
					}
					return conn, err
				},
			}}
		},
	}
}

// A base is an http3.Transport over a network in memory.
type base struct {
	over *quic.Transport
	*http3.Transport
}

func (b *base) Close() error {
	return errors.Join(b.Transport.Close(), b.over.Close(), b.over.Conn.Close())
}

var serverTLS, clientTLS = newTLS()

// newTLS returns both ends' configurations. The certificate is valid in the bubbles of
// synctest, whose time begins in 2000.
func newTLS() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	template, err = x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(template)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return http3.ConfigureTLSConfig(server), &tls.Config{RootCAs: roots}
}

func TestHTTP3TransportKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{
		New:        func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper { return base },
		ServeHTTP3: serve,
		Breaks:     breaksBy(closesTwice),
	})
}

// What http3.Transport breaks by itself, always or by chance.
var breaks = map[string]string{
	"the request stays as it was":                                 "GET without method: http3: parsing frame failed: H3_MESSAGE_ERROR",
	"the server sees the request that the base would send":        "GET without method: the base itself fails",
	"a request that the base can't send is an error":              "a body that fails: got",
	"the body waits for 100 Continue":                             "read before the server wanted it",
	"a response that is cut short is an error":                    "", // the reset may overtake the header, or the part that came
	"cancelled while the body is sent":                            "", // the server's answer to the reset may be faster
	"cancelled while the response is read":                        "H3_REQUEST_CANCELLED",
	"a deadline is a timeout, wherever it passes":                 "reading: got H3_REQUEST_CANCELLED",
	"the timeout of http.Client is a timeout, wherever it passes": "", // of two timers, one is faster
	"the caller's httptrace sees 100 Continue":                    "Wait100Continue: got 0",
}

// What Auth mends.
var closesTwice = map[string]string{
	"the body is closed once":               "closed: got 2",
	"cancelled while the answer is awaited": "",
}

func breaksBy(more map[string]string) map[string]string {
	all := maps.Clone(breaks)
	maps.Copy(all, more)
	return all
}

func TestAuthKeepsTheContractOverHTTP3(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: auth, Tokens: true, Refuses: firstToken, ServeHTTP3: serve, Breaks: breaks,
	})
}

func auth(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
	return &transport.Auth{Base: base, Source: &tokensource.Cache{Source: tokensource.Func(
		func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			text, err := token(ctx)
			return &tokensource.Token{AccessToken: text}, err
		})}}
}

func firstToken(r *http.Request) http.Header {
	if _, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); token != "token-1" {
		return nil
	}
	return http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}
}
