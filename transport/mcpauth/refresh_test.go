package mcpauth_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// stored returns an Auth whose login is in the Store.
func (w *world) stored(m *storetest.Memory) *mcpauth.Auth {
	a := w.auth()
	a.Cache = func(source tokensource.Source) *tokensource.Cache {
		return &tokensource.Cache{Source: &tokensource.Stored{Source: source, Store: m, Key: "user"}}
	}
	return a
}

func TestALoginOutlivesTheProcess(t *testing.T) {
	w, m := newWorld(), new(storetest.Memory)
	if err := do(t.Context(), w.stored(m)); err != nil {
		t.Fatal(err)
	}
	w.issued++ // the token is refused, and refreshed without another discovery
	w.HandleFunc("GET mcp.example/metadata", http.NotFound)
	w.HandleFunc("GET id.example/.well-known/oauth-authorization-server", http.NotFound)
	if err := do(t.Context(), w.stored(m)); err != nil || w.logins.Load() != 1 {
		t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
	}
	w.issued++
	if err := do(t.Context(), w.stored(m)); err != nil || w.logins.Load() != 1 {
		t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
	}
	for i, refresh := range []string{"hush-hush-r1", "hush-hush-r3"} {
		want := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "resource": {serverURL},
			"client_id": {"registered"}, "client_secret": {"hush-hush-secret"}}
		if got := w.forms[1+i]; got.Encode() != want.Encode() {
			t.Errorf("got the refresh %v, want %v", got, want)
		}
	}
}

func TestWhatCameWithATokenIsKept(t *testing.T) {
	w := newWorld()
	var tokens *tokensource.Cache
	a := w.auth()
	a.Cache = func(source tokensource.Source) *tokensource.Cache {
		tokens = &tokensource.Cache{Source: source}
		return tokens
	}
	for range 2 { // after the login and after a refresh
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if got := string(tokens.Peek(t.Context(), nil).Extra["id_token"]); got != `"hush-hush"` {
			t.Errorf("got the id_token %s, want that of the reply", got)
		}
		w.issued++
	}
}

// The server's metadata are at no well-known place, so that only a challenge says where to log in.
func TestALoginThatEndsInAnotherProcessBeginsAnew(t *testing.T) {
	w, m := newWorld(), new(storetest.Memory)
	if err := do(t.Context(), w.stored(m)); err != nil {
		t.Fatal(err)
	}
	w.issued++
	w.token = noRefresh
	if err := do(t.Context(), w.stored(m)); err != nil || w.logins.Load() != 2 {
		t.Errorf("got %v after %d logins, want no error and 2 logins", err, w.logins.Load())
	}
}

// A client that its server has forgotten must register again. A client of the configuration cannot.
func TestAForgottenClientThatWasRegisteredLogsInAgain(t *testing.T) {
	for id, want := range map[string]int32{"": 2, "configured": 1} {
		w := newWorld()
		a := w.auth()
		a.Endpoint.ClientID = id
		a.Login = func(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
			w.logins.Add(1)
			if d.Endpoint.ClientID == "" {
				d.Endpoint.ClientID = "registered"
			}
			return d.Endpoint.Exchange(ctx, url.Values{"grant_type": {"authorization_code"}})
		}
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		w.issued++
		w.token = func(form url.Values) string {
			if form.Get("grant_type") == "refresh_token" {
				return `{"error": "invalid_client"}`
			}
			return ""
		}
		err := do(t.Context(), a)
		if n := w.logins.Load(); n != want || (err == nil) != (want == 2) {
			t.Errorf("client %q: got %v after %d logins, want %d", id, err, n, want)
		}
	}
}

// It comes back an hour later.
func TestATokenEndpointThatIsGoneEndsNoLogin(t *testing.T) {
	for _, status := range []int{404, 410} {
		synctest.Test(t, func(t *testing.T) {
			w, tokens := newWorld(), (*tokensource.Cache)(nil)
			var gone atomic.Bool
			w.HandleFunc("POST id.example/token", func(rw http.ResponseWriter, r *http.Request) {
				if gone.Load() {
					rw.WriteHeader(status)
					return
				}
				w.exchange(rw, r)
			})
			a := w.auth()
			a.Cache = func(source tokensource.Source) *tokensource.Cache {
				tokens = &tokensource.Cache{Source: source}
				return tokens
			}
			if err := do(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour) // the token expires
			gone.Store(true)
			err := do(t.Context(), a)
			if e, ok := errors.AsType[*tokensource.EndpointError](err); !ok || e.StatusCode != status || errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want an EndpointError with the status %d", err, status)
			}
			time.Sleep(time.Hour)
			gone.Store(false)
			if err := do(t.Context(), a); err != nil || w.logins.Load() != 1 {
				t.Errorf("when it is back: got %v after %d logins, want no error and 1 login", err, w.logins.Load())
			}
		})
	}
}

func TestForgetFindsATokenEndpointThatHasMoved(t *testing.T) {
	w, tokens := newWorld(), (*tokensource.Cache)(nil)
	a := w.auth()
	a.Cache = func(source tokensource.Source) *tokensource.Cache {
		tokens = &tokensource.Cache{Source: source}
		return tokens
	}
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.HandleFunc("POST id.example/token", http.NotFound)
	w.HandleFunc("id.example/moved", w.exchange)
	w.json("GET id.example/.well-known/oauth-authorization-server", `{"issuer": "`+issuerURL+`", "token_endpoint": "`+issuerURL+`/moved",
		"code_challenge_methods_supported": ["S256"]}`)
	if err := tokens.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := do(t.Context(), a); err != nil || w.logins.Load() != 2 {
		t.Errorf("got %v after %d logins, want no error and 2 logins", err, w.logins.Load())
	}
}
