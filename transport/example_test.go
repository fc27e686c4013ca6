package transport_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// keyAt reads the key of a program, or makes it when the program runs for the
// first time. Tokens that outlive the program are of no use without it. In a KMS
// it survives by itself.
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

// Tokens that are bound to a key: one DPoP below Auth for the API, and below the
// client of the token endpoint. What a store keeps is of no use without the key,
// so that is kept as well, but elsewhere.
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
		dpop := &transport.DPoP{Key: key}
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
// claims, as Microsoft's APIs do. The refusal reaches the caller as it came.
func ExampleChallenges() {
	for _, header := range []string{
		`Bearer error="insufficient_user_authentication", acr_values="phishing-resistant", max_age=60`,
		`Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="`,
	} {
		resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {header}}}
		for _, c := range transport.Challenges(resp) {
			fmt.Println(c.Scheme, c.Params["error"], c.Params["acr_values"], c.Params["claims"], transport.Unauthorized(resp))
		}
	}
	// Output:
	// Bearer insufficient_user_authentication phishing-resistant  false
	// Bearer insufficient_claims  eyJhY2Nlc3NfdG9rZW4iOnt9fQ== false
}
