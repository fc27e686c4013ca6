package docs_test

import (
	"fmt"
	"net/http"

	"github.com/tokentripper/tokentripper/tokensource"
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
