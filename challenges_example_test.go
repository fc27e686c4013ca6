package tokentripper_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// An API wants a stronger login than the one that the token came from (RFC 9470). No
// refresh can help, so the caller gets the refusal, which says what to do.
func Example_challenges() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate",
			`Bearer error="insufficient_user_authentication", acr_values="phishing-resistant", max_age=60`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer api.Close()

	client := &http.Client{Transport: &transport.Auth{
		Source: tokensource.Static(&tokensource.Token{AccessToken: "secret"}),
	}}
	resp, err := client.Get(api.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()

	for _, c := range transport.Challenges(resp) {
		if strings.EqualFold(c.Scheme, "Bearer") && c.Params["error"] == "insufficient_user_authentication" {
			fmt.Println("log in again:", c.Params["acr_values"], "within", c.Params["max_age"], "s")
		}
	}
	// Output:
	// log in again: phishing-resistant within 60 s
}
