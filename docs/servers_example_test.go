package docs_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log"
	"net/http"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// What servers.md has.

func Example_issuer() {
	issuer, clientID, clientSecret := "https://login.example.com", "app", "a secret"

	source := &tokensource.RefreshToken{Endpoint: tokensource.Endpoint{
		Issuer:       &tokensource.Issuer{URL: issuer},
		ClientID:     clientID,
		ClientSecret: clientSecret,
	}}

	fmt.Println(source)
	// Output: refresh token [redacted] for the token endpoint at "login.example.com", client "app"
}

func Example_emptyRefusal() {
	clientSecret := "a secret"

	source := &tokensource.RefreshToken{
		Endpoint: tokensource.Endpoint{
			URL:          "https://login.example.com/api/glwd/token/",
			ClientID:     "app",
			ClientSecret: clientSecret,
		},
		Final: func(refusal *tokensource.EndpointError) bool {
			return refusal.StatusCode == http.StatusBadRequest && refusal.Code == "" && refusal.Err == nil
		},
	}

	fmt.Println(source)
	// Output: refresh token [redacted] for the token endpoint at "login.example.com", client "app"
}

func Example_boundToAKey() {
	issuer, clientID, clientSecret := "https://login.example.com", "app", "a secret"
	_, signer, err := ed25519.GenerateKey(nil)
	if err != nil {
		log.Fatal(err)
	}

	key := &transport.DPoP{Key: signer}
	source := &tokensource.RefreshToken{Endpoint: tokensource.Endpoint{
		Issuer:       &tokensource.Issuer{URL: issuer},
		ClientID:     clientID,
		ClientSecret: clientSecret,
		Client:       &http.Client{Transport: key},
	}}
	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: source},
		Base:   key,
	}}

	_, err = client.Get("https://api.example.com/")
	fmt.Println(errors.Is(err, tokensource.ErrReauthenticate)) // before the first Set
	// Output: true
}

func Example_forbidden() {
	issuer, clientID, clientSecret := "https://login.example.com", "app", "a secret"

	source := &tokensource.RefreshToken{Endpoint: tokensource.Endpoint{
		Issuer:       &tokensource.Issuer{URL: issuer},
		ClientID:     clientID,
		ClientSecret: clientSecret,
	}}
	client := &http.Client{Transport: &transport.Auth{
		Source:  &tokensource.Cache{Source: source},
		Refused: transport.UnauthorizedOrForbidden,
	}}

	_, err := client.Get("https://api.example.com/")
	fmt.Println(errors.Is(err, tokensource.ErrReauthenticate)) // before the first Set
	// Output: true
}
