package tokentest_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A refresh token works once. A test uses NewServer(t), and needs no Close.
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

// Your own handlers can trust the server's access tokens, too.
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

// What a client must survive: outages, pages of proxies, lost replies, replies without end.
func ExampleServer_Fail() {
	srv := tokentest.Start()
	defer srv.Close()
	refresh := func(timeout time.Duration) string {
		client := &http.Client{Timeout: timeout}
		resp, err := client.PostForm(srv.TokenURL(), url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {srv.RefreshToken()}, "client_id": {srv.ClientID},
		})
		if err != nil {
			return "no answer"
		}
		defer resp.Body.Close()
		n, _ := io.CopyN(io.Discard, resp.Body, 1<<20)
		return fmt.Sprintf("%d %v %d bytes", resp.StatusCode, resp.Header["Retry-After"], n)
	}
	for _, f := range []tokentest.Failure{
		{RetryAfter: "1"},
		{Status: 502, Body: "<html>", ContentType: "text/html"},
		{Reset: true},
		{LoseReply: true}, // the server has issued tokens
		{Endless: true},
		{Times: -1}, // until ClearFailures
	} {
		srv.Fail(f)
		fmt.Println(refresh(0))
	}
	srv.ClearFailures()
	fmt.Println("issued:", srv.Counts().Issued)
	srv.Fail(tokentest.Failure{Hang: true})
	fmt.Println(refresh(10 * time.Millisecond))
	// Output:
	// 503 [1] 35 bytes
	// 502 [] 6 bytes
	// no answer
	// no answer
	// 200 [] 1048576 bytes
	// 503 [] 35 bytes
	// issued: 1
	// no answer
}

// Tokens that expire at once, and a legacy API that says only 403.
func ExampleServer_SetLifetime() {
	srv := tokentest.Start()
	defer srv.Close()
	api := httptest.NewServer(srv.ProtectForbidden(http.NotFoundHandler()))
	defer api.Close()
	srv.SetLifetime(-time.Second, 0)
	srv.SetRefreshEndsAccess(true) // as some servers do

	token := tokenFor(srv, srv.RefreshToken())
	req, _ := http.NewRequest(http.MethodGet, api.URL, nil)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, _ := http.DefaultClient.Do(req)
	fmt.Println(resp.StatusCode, srv.Check(token))
	fmt.Println("refused:", srv.Counts().Refused, "of", srv.Counts().APIRequests)

	login := srv.RefreshToken()
	srv.ExpireRefresh() // a new login is needed
	fmt.Printf("%q\n", tokenFor(srv, login))
	// Output:
	// 403 tokentest: the token has expired
	// refused: 1 of 1
	// ""
}

// tokenFor returns the access token of a refresh, or "".
func tokenFor(srv *tokentest.Server, refreshToken string) string {
	resp, _ := http.PostForm(srv.TokenURL(), url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}, "client_id": {srv.ClientID},
	})
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	json.NewDecoder(resp.Body).Decode(&answer)
	return answer.AccessToken
}

// A client whose nonces go stale is challenged, and sends its requests again.
func ExampleServer_ExpireNonces() {
	srv := tokentest.Start()
	defer srv.Close()
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	_, key, _ := ed25519.GenerateKey(nil)
	dpop := &transport.DPoP{Key: key}
	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
			Client: &http.Client{Transport: dpop},
		}}},
		Base: dpop,
	}}
	for range 2 {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(resp.Status, "challenges:", srv.Counts().NonceChallenges, "reused proofs:", srv.Counts().ProofReuses)
		srv.ExpireNonces()
	}
	// Output:
	// 200 OK challenges: 2 reused proofs: 0
	// 200 OK challenges: 3 reused proofs: 0
}
