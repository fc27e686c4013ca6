package transport_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/tokentripper/tokentripper/tokensource"
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
	auth := &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: "http://auth.mesh/token", ClientID: "reports", AllowHTTP: true},
		}},
		Origins:   []string{"http://api.mesh"},
		AllowHTTP: true,
	}
	client := &http.Client{Transport: auth}
	defer client.CloseIdleConnections() // those of the transport below Auth
	if below, ok := auth.WrappedRoundTripper().(*http.Transport); ok {
		fmt.Println("a proxy may be set:", below.Proxy != nil)
	}
	// Output: a proxy may be set: true
}
