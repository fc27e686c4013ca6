package proxies_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// Clients.
const (
	viaAuth    = ""
	viaDPoP    = "DPoP"
	withExpect = "Expect" // 100-continue, and an ExpectContinueTimeout of 1 s, the default
)

// A client sends uploads to one address by one protocol.
type client struct {
	url  string
	kind string // viaAuth, viaDPoP or withExpect
	base *http.Transport
}

func newClient(t *testing.T, url, kind string, http2 bool) *client {
	base := http.DefaultTransport.(*http.Transport).Clone()
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	base.TLSClientConfig = &tls.Config{RootCAs: pool}
	if *expect >= 0 {
		base.ExpectContinueTimeout = *expect
	}
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(!http2)
	base.Protocols.SetHTTP2(http2)
	t.Cleanup(base.CloseIdleConnections)
	return &client{url, kind, base}
}

func (c *client) http2() bool { return c.base.Protocols.HTTP2() }

// auth is a transport whose first token is stale.
func (c *client) auth() http.RoundTripper {
	kind, base := "Bearer", http.RoundTripper(c.base)
	if c.kind == viaDPoP {
		kind, base = "DPoP", &transport.DPoP{Key: key, Base: c.base}
	}
	source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		access := "stale"
		if old != nil {
			access = "good"
		}
		return &tokensource.Token{AccessToken: access, TokenType: kind, Expiry: time.Now().Add(time.Hour)}, nil
	})
	return &transport.Auth{Source: &tokensource.Cache{Source: source}, Base: base, MaxBody: 2 * int64(len(content))}
}

// send sends one upload, and returns the status that the caller gets. It is an
// error if a success is not that of the whole upload.
func (c *client) send(ctx context.Context, u upload) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := u.request(c.url)
	if err != nil {
		return 0, err
	}
	if c.kind == withExpect || *expect >= 0 {
		req.Header.Set("Expect", "100-continue")
	}
	var attempts []string
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		attempts = append(attempts, map[bool]string{true: "used", false: "new"}[i.Reused])
	}})
	resp, err := c.auth().RoundTrip(req.WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("with connections %v: %w", attempts, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK && string(text) != sums[u.size] {
		err = fmt.Errorf("the server took something else for the whole upload: its sum is %.64s", text)
	}
	return resp.StatusCode, err
}
