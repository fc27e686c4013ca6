package http3

import (
	"crypto/ed25519"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

func grant(srv *tokentest.Server, client *http.Client) *tokensource.Cache {
	return &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret, Client: client,
	}}}
}

func TestManyRequestsOverOneConnectionShareARefresh(t *testing.T) {
	srv := tokentest.NewServer(t)
	url, base, dials := listen(t, srv.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })))
	auth := &transport.Auth{Source: grant(srv, nil), Base: base}
	gets(t, auth, post(t, url, strings.NewReader("first")), "200 first")
	srv.RevokeAccess()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() { gets(t, auth, post(t, url, io.MultiReader(strings.NewReader("hello"))), "200 hello") })
	}
	all.Wait()
	if c := srv.Counts(); c.Issued != 2 || dials.Load() != 1 {
		t.Errorf("got %d token requests and %d connections, want 2 and 1", c.Issued, dials.Load())
	}
}

func TestDPoPProvesEachAttempt(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	url, base, _ := listen(t, srv.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })))
	_, key, _ := ed25519.GenerateKey(nil)
	auth := &transport.Auth{
		Source: grant(srv, &http.Client{Transport: &transport.DPoP{Key: key}}),
		Base:   &transport.DPoP{Key: key, Base: base},
	}
	for range 2 {
		body := strings.Repeat("0123456789abcdef", 4*kib)
		gets(t, auth, post(t, url, io.MultiReader(strings.NewReader(body))), "200 "+body)
		srv.ExpireNonces()
		srv.RevokeAccess()
	}
}

// http3.Transport sends GET, but the proof has the method of the caller's request.
func TestA0RTTRequestHasNoValidProof(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.SetDPoP(tokentest.DPoP{Required: true})
	url, base, _ := listen(t, srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	_, key, _ := ed25519.GenerateKey(nil)
	auth := &transport.Auth{
		Source: grant(srv, &http.Client{Transport: &transport.DPoP{Key: key}}),
		Base:   &transport.DPoP{Key: key, Base: base},
	}
	for method, want := range map[string]int{http.MethodGet: 200, http3.MethodGet0RTT: 401} {
		req := post(t, url, nil)
		req.Method = method
		resp, err := auth.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", method, resp.StatusCode, want)
		}
	}
}
