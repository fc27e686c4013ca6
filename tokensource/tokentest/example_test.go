package tokentest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"

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
