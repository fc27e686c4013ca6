package transport_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A request that cannot be sent again: the API refuses the token, and the login has ended.
func ExampleError() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", scope="reports"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer api.Close()
	cache := &tokensource.Cache{Source: new(tokensource.RefreshToken)}
	cache.Set(context.Background(), &tokensource.Token{AccessToken: "revoked"})

	client := &http.Client{Transport: &transport.Auth{Source: cache}}
	_, err := client.Get(api.URL)
	if e, ok := errors.AsType[*transport.Error](err); ok {
		fmt.Println("status:", e.StatusCode)
		fmt.Println("scope:", e.Challenges[0].Params["scope"])
		fmt.Println("a login is needed:", errors.Is(e, tokensource.ErrReauthenticate))
	}
	// Output:
	// status: 401
	// scope: reports
	// a login is needed: true
}

// Who is to blame for a request that failed.
func ExampleError_blame() {
	blame := func(err error) string {
		e, ok := errors.AsType[*transport.Error](err)
		switch {
		case !ok:
			return "the API, or the network on the way to it"
		case errors.Is(e, tokensource.ErrReauthenticate):
			return "the login has ended"
		case e.Timeout():
			return "the token endpoint is slow"
		}
		return e.Err.Error()
	}

	srv := tokentest.Start()
	defer srv.Close()
	get := func(url string, timeout time.Duration) {
		client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{
			Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
				URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
			}},
			Timeout:  timeout,
			Patience: -1, // return the first failure
		}}}
		_, err := client.Get(url)
		fmt.Println(blame(err))
	}
	get("http://localhost:1", 0)
	srv.Fail(tokentest.Failure{Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`})
	get(srv.APIURL(), 0)
	srv.Fail(tokentest.Failure{Hang: true})
	get(srv.APIURL(), 50*time.Millisecond)
	// Output:
	// the API, or the network on the way to it
	// tokensource: the token endpoint answered 401 invalid_client
	// the token endpoint is slow
}

// A rule that HasJSON cannot express: any code from 40100 to 40199 refuses the token.
func ExamplePeekJSON() {
	refused := func(resp *http.Response) bool {
		var body struct{ Code int }
		return transport.Unauthorized(resp) || resp.StatusCode == http.StatusOK &&
			json.Unmarshal(transport.PeekJSON(resp), &body) == nil && body.Code/100 == 401
	}
	auth := &transport.Auth{Source: new(tokensource.Cache), Refused: refused}

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"code": %s}`, r.URL.Query().Get("code"))
	}))
	defer api.Close()
	for _, code := range []string{"40103", "0"} {
		resp, err := http.Get(api.URL + "?code=" + code)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(code, auth.Refused(resp))
		resp.Body.Close()
	}
	// Output:
	// 40103 true
	// 0 false
}

// An authorization request names the key that the code and the tokens are bound to
// (RFC 9449 section 10).
func ExampleDPoP_Thumbprint() {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		log.Fatal(err)
	}
	dpop := &transport.DPoP{Key: key}
	thumbprint, err := dpop.Thumbprint()
	if err != nil {
		log.Fatal(err)
	}
	query := url.Values{"response_type": {"code"}, "client_id": {"reports"}, "dpop_jkt": {thumbprint}}
	u := "https://auth.example.com/authorize?" + query.Encode() // for the user's browser
	fmt.Println(strings.Replace(u, thumbprint, "…", 1))
	// Output: https://auth.example.com/authorize?client_id=reports&dpop_jkt=…&response_type=code
}

// A service mesh encrypts what leaves the machine, so the program itself uses http.
func ExampleAuth_serviceMesh() {
	srv := tokentest.Start()
	defer srv.Close()
	mesh := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(srv.URL, "http://"))
	}}
	defer mesh.CloseIdleConnections()

	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			URL:          "http://auth.mesh/token",
			ClientID:     srv.ClientID,
			ClientSecret: srv.ClientSecret,
			Client:       &http.Client{Transport: mesh},
			AllowHTTP:    true,
		}}},
		Base:      mesh,
		Origins:   []string{"http://api.mesh"},
		AllowHTTP: true,
	}}
	resp, err := client.Get("http://api.mesh/api")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}

// Code that gets a client finds the http.Transport below its layers.
func ExampleAuth_WrappedRoundTripper() {
	client := &http.Client{Transport: &transport.Auth{Source: new(tokensource.Cache), Base: new(transport.DPoP)}}
	defer client.CloseIdleConnections() // each layer passes it on

	below := client.Transport
	for {
		layer, ok := below.(interface{ WrappedRoundTripper() http.RoundTripper })
		if !ok {
			break
		}
		below = layer.WrappedRoundTripper()
	}
	fmt.Println(below == http.DefaultTransport)
	// Output: true
}
