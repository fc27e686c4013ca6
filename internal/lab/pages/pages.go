// Package pages has what the tests and examples of the README and of docs share.
package pages

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// File returns a file's text.
func File(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// OneLine returns text with a space for all white space.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Status prints a response's status.
func Status(resp *http.Response, err error) {
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
}

// TokenFile makes a file with a login of srv, as programs keep it who use x/oauth2.
func TokenFile(srv *tokentest.Server) (path string, remove func()) {
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "token.json")
	text := fmt.Sprintf(`{"access_token":"old","refresh_token":%q,"expiry":"2020-01-01T00:00:00Z"}`, srv.RefreshToken())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}

// TwoRefreshes makes the cache refresh because it has no token, and because one was
// refused. It waits until OnRefresh has been called.
func TwoRefreshes(srv *tokentest.Server, cache *tokensource.Cache, client *http.Client) {
	observe, told := cache.OnRefresh, make(chan struct{})
	cache.OnRefresh = func(r tokensource.Refresh) { observe(r); told <- struct{}{} }
	for range 2 {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		<-told
		srv.RevokeAccess()
	}
}

// Redirected asks for a URL that leads to another origin, and returns the
// Authorization that came there.
func Redirected(t *testing.T, client *http.Client) (seen string) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get("Authorization") }))
	defer other.Close()
	api := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer api.Close()
	resp, err := client.Get(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return seen
}
