//go:build go1.27

package docs_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestAClientIsTestedInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := httptest.NewTestServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer good" {
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		client := &http.Client{Transport: &transport.Auth{
			Source: tokensource.Static(&tokensource.Token{AccessToken: "good"}),
			Base:   srv.Client().Transport,
		}}
		resp, err := client.Get("https://api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("got %s, want 200 OK", resp.Status)
		}
		if resp, err := client.Get(srv.URL); err == nil {
			t.Errorf("%s: got %s, want an error: the token would go in clear", srv.URL, resp.Status)
		}
	})
}
