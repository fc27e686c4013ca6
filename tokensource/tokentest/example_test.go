package tokentest_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A refresh token works once. In a test, NewServer(t) spares the Close.
func Example() {
	srv := tokentest.Start()
	defer srv.Close()
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {srv.RefreshToken()},
		"client_id":     {srv.ClientID},
	}
	first, _ := http.PostForm(srv.TokenURL(), form)
	again, _ := http.PostForm(srv.TokenURL(), form)
	fmt.Println(first.StatusCode, again.StatusCode, srv.Counts().Reuses)
	// Output: 200 400 1
}

// Handlers of the caller's own can trust the server's access tokens, too.
func ExampleServer_Protect() {
	srv := tokentest.Start()
	defer srv.Close()
	api := httptest.NewServer(srv.Protect(http.NotFoundHandler()))
	defer api.Close()
	resp, _ := http.Get(api.URL)
	fmt.Println(resp.Status, resp.Header.Get("WWW-Authenticate"))
	// Output: 401 Unauthorized Bearer realm="tokentest"
}

// A service that signs with a trusted key gets a token for a user.
func ExampleServer_TrustKey() {
	srv := tokentest.Start()
	defer srv.Close()
	public, private, _ := ed25519.GenerateKey(nil)
	srv.TrustKey(public)
	assertion, _ := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "my service", "sub": "alice", "aud": srv.TokenURL(), "exp": time.Now().Add(time.Minute).Unix(),
	}).SignedString(private)
	resp, _ := http.PostForm(srv.TokenURL(), url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"assertion":  {assertion},
	})
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	json.NewDecoder(resp.Body).Decode(&answer)
	subject, _, err := srv.Subject(answer.AccessToken)
	fmt.Println(subject, err)
	// Output: alice <nil>
}
