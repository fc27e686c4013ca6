package servers_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

const callback = "https://app.example.com/callback"

// browse logs in as a browser does, from the authorization endpoint to the
// redirection with the code, and exchanges that. Where a redirection leads to a page
// for a person, page returns where that person goes next.
func browse(t *testing.T, endpoint tokensource.Endpoint, start string, page func(browser *http.Client, at *url.URL) string) *tokensource.Token {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	verifier := rand.Text() + rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	next := start + "?" + url.Values{
		"response_type": {"code"}, "client_id": {endpoint.ClientID}, "redirect_uri": {callback},
		"scope": {"openid offline_access"}, "state": {"a state of the suite"}, "nonce": {"a nonce of the suite"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode()
	for range 10 {
		at := location(t, browser, next)
		if code := at.Query().Get("code"); code != "" {
			token, err := endpoint.Exchange(t.Context(), url.Values{
				"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier},
			})
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		if next = page(browser, at); next == "" {
			next = at.String()
		}
	}
	t.Fatalf("no code; the last redirection was to %s", next)
	return nil
}

// location is where a page redirects to.
func location(t *testing.T, browser *http.Client, from string) *url.URL {
	t.Helper()
	resp, err := browser.Get(from)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	at, err := resp.Location()
	if err != nil || at.Query().Has("error") {
		t.Fatalf("%s from %s to %v: %v", resp.Status, from, at, err)
	}
	return at
}
