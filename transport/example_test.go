package transport_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// keyAt reads the key of a program, or makes it when the program runs for the first
// time. Tokens that outlive the program are of no use without their key. A key in a KMS
// need not be saved.
func keyAt(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return tokensource.ParsePrivateKey(text)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, os.WriteFile(path, text, 0o600)
}

// Tokens that are bound to a key: the same DPoP is below Auth, and below the client of the
// token endpoint. The stored tokens are of no use without the key, so the program keeps
// the key, too, in another place.
func ExampleDPoP() {
	srv := tokentest.Start()
	defer srv.Close()
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	dir, err := os.MkdirTemp("", "tokentripper")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store := new(storetest.Memory) // stands for filestore or redisstore
	login := srv.RefreshToken()

	for range 2 { // the program runs twice
		key, err := keyAt(filepath.Join(dir, "dpop.pem"))
		if err != nil {
			log.Fatal(err)
		}
		dpop := &transport.DPoP{Key: key, Base: http.DefaultTransport}
		client := &http.Client{Transport: &transport.Auth{
			Source: &tokensource.Cache{Source: &tokensource.Stored{
				Source: &tokensource.RefreshToken{
					Endpoint: tokensource.Endpoint{
						URL:      srv.TokenURL(),
						ClientID: srv.ClientID,
						Client:   &http.Client{Transport: dpop},
					},
					RefreshToken: login,
				},
				Store: store,
				Key:   "reports",
			}},
			Base: dpop,
		}}
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Status)
	}
	fmt.Println("exchanges:", srv.Counts().Rotations)
	// Output:
	// 200 OK
	// 200 OK
	// exchanges: 1
}

// A server that refreshes by itself and sends the new token along with its answer.
func ExampleAuth_newToken() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
		w.Header().Set("X-New-Token", "token-2")
	}))
	defer api.Close()

	cache := &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: "token-1"})}
	client := &http.Client{Transport: &transport.Auth{
		Source: cache,
		NewToken: func(resp *http.Response) *tokensource.Token {
			if text := resp.Header.Get("X-New-Token"); text != "" {
				return &tokensource.Token{AccessToken: text}
			}
			return nil
		},
	}}
	for range 2 {
		if _, err := client.Get(api.URL); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// Bearer token-1
	// Bearer token-2
}

// What an API demands that no other token can fulfil: a stronger login (RFC 9470), or
// claims, as Microsoft's APIs do. The caller gets such a refusal. The last challenge has
// a value instead of parameters.
func ExampleChallenges() {
	for _, header := range []string{
		`Bearer error="insufficient_user_authentication", acr_values="phishing-resistant", max_age=60`,
		`Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="`,
		"Negotiate oRQwEqADCgEB",
	} {
		resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {header}}}
		for _, c := range transport.Challenges(resp) {
			fmt.Printf("%s %q %v %t\n", c.Scheme, c.Token68, c.Params, transport.Unauthorized(resp))
		}
	}
	// Output:
	// Bearer "" map[acr_values:phishing-resistant error:insufficient_user_authentication max_age:60] false
	// Bearer "" map[claims:eyJhY2Nlc3NfdG9rZW4iOnt9fQ== error:insufficient_claims realm:] false
	// Negotiate "oRQwEqADCgEB" map[] true
}

// A server that answers 200 to an expired token, and reports it only in the body.
func ExampleHasJSON() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer token-2" {
			fmt.Fprint(w, `{"ok":false,"error":"token_expired"}`)
			return
		}
		fmt.Fprint(w, `{"ok":true}`)
	}))
	defer api.Close()
	var n atomic.Int32
	source := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return &tokensource.Token{AccessToken: fmt.Sprint("token-", n.Add(1))}, nil
	})}

	auth := &transport.Auth{
		Source: source,
		Refused: func(resp *http.Response) bool {
			return transport.Unauthorized(resp) ||
				resp.StatusCode == 200 && transport.HasJSON(resp, "error", "token_expired", "token_revoked")
		},
	}
	client := &http.Client{Transport: auth}
	resp, err := client.Get(api.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	fmt.Println(string(text), err)
	// Output:
	// {"ok":true} <nil>
}

// Before the first login, the server's challenge says where to log in.
func ExampleAuth_anonymous() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://api.example/.well-known/oauth-protected-resource"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	cache := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, tokensource.ErrReauthenticate // the first token comes by Set
	})}

	auth := &transport.Auth{
		Source:    cache,
		Anonymous: func(_ *http.Request, had bool) bool { return !had },
	}
	client := &http.Client{Transport: auth}
	resp, err := client.Get(api.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	for _, c := range transport.Challenges(resp) {
		fmt.Println(resp.StatusCode, c.Params["resource_metadata"])
	}
	cache.Set(context.Background(), &tokensource.Token{AccessToken: "token"})
	if resp, err = client.Get(api.URL); err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output:
	// 401 https://api.example/.well-known/oauth-protected-resource
	// 200
}
