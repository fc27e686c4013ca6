package http3

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

const kib, mib = 1 << 10, 1 << 20

// listen starts a server on the loopback interface. It returns its URL and a transport
// that reaches it, with its connections counted.
func listen(t *testing.T, h http.Handler) (string, *http3.Transport, *atomic.Int32) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http3.Server{Handler: h, TLSConfig: serverTLS, QUICConfig: &quic.Config{Allow0RTT: true}}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(conn) }()
	bottom, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int32
	over := &quic.Transport{Conn: bottom}
	base := &http3.Transport{
		TLSClientConfig: clientTLS.Clone(),
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			dials.Add(1)
			return over.DialEarly(ctx, conn.LocalAddr(), tlsConfig, config)
		},
	}
	t.Cleanup(func() {
		base.Close()
		over.Close()
		bottom.Close()
		server.Close()
		<-served
		conn.Close()
	})
	return "https://" + conn.LocalAddr().String(), base, &dials
}

// oldThenNew is a Source of the token "old", and of "new" once that was refused.
func oldThenNew() *tokensource.Cache {
	return &tokensource.Cache{Source: tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old != nil {
			return &tokensource.Token{AccessToken: "new"}, nil
		}
		return &tokensource.Token{AccessToken: "old"}, nil
	})}
}

// refusing refuses the token "old" once it has read so many bytes of the body. It leaves
// the rest unread, so http3.Server stops the upload. Otherwise it answers with the
// body's sum and trailer.
func refusing(readFirst int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer old" {
			io.CopyN(io.Discard, r.Body, readFirst)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		hash := sha256.New()
		_, err := io.Copy(hash, r.Body)
		fmt.Fprintf(w, "%x %v %s", hash.Sum(nil), err, r.Trailer.Get("X-Sum"))
	}
}

// noise returns n random bytes, always the same.
func noise(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// sumOf returns what refusing answers for noise.
func sumOf(n int64) string {
	hash := sha256.New()
	io.Copy(hash, noise(n))
	return fmt.Sprintf("%x <nil> ", hash.Sum(nil))
}

// post returns a request that ends within 30 s.
func post(t *testing.T, url string, body io.Reader) *http.Request {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// send sends a request and returns the answer's status and body.
func send(rt http.RoundTripper, req *http.Request) (string, error) {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(body)), err
}

// gets fails the test unless the answer is want.
func gets(t *testing.T, rt http.RoundTripper, req *http.Request, want string) {
	t.Helper()
	if got, err := send(rt, req); err != nil || got != want {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
}

func authOver(base http.RoundTripper) *transport.Auth {
	return &transport.Auth{Source: oldThenNew(), Base: base}
}
