package mcpauth_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// unnamed answers all requests without a token by a challenge that does not say where the metadata are.
func (w *world) unnamed() {
	w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			rw.Header().Set("WWW-Authenticate", `Bearer scope="x"`)
			rw.WriteHeader(401)
		}
	})
}

const metadataOf = `{"resource": "%", "authorization_servers": ["` + issuerURL + `"]}`

func TestDiscoveryFollowsTheChallengeAndTheWellKnownPlaces(t *testing.T) {
	known := "mcp.example/.well-known/oauth-protected-resource"
	for name, c := range map[string]struct {
		prepare         func(*world)
		resource, token string
		scopes          []string
	}{
		"named": {func(*world) {}, serverURL, issuerURL + "/token", []string{"a", "b"}},
		"at the path": {func(w *world) { w.unnamed(); w.json(known+"/mcp", strings.ReplaceAll(metadataOf, "%", serverURL)) },
			serverURL, issuerURL + "/token", []string{"x"}},
		"at the root": {func(w *world) { w.unnamed(); w.json(known, strings.ReplaceAll(metadataOf, "%", "https://mcp.example")) },
			"https://mcp.example", issuerURL + "/token", []string{"x"}},
		"with offline_access": {func(w *world) {
			w.json("GET id.example/.well-known/oauth-authorization-server", `{"issuer": "`+issuerURL+`", "token_endpoint": "`+issuerURL+`/token",
				"code_challenge_methods_supported": ["S256"], "scopes_supported": ["a", "offline_access", "z"]}`)
		}, serverURL, issuerURL + "/token", []string{"a", "b", "offline_access"}},
		"nowhere": {func(w *world) { w.unnamed() }, serverURL, "https://mcp.example/token", []string{"x"}},
	} {
		w := newWorld()
		c.prepare(w)
		var got *mcpauth.Discovery
		a := w.auth()
		a.Login = func(_ context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
			got = d
			return &tokensource.Token{AccessToken: "hush-hush-1"}, nil
		}
		do(t.Context(), a)
		if got == nil || got.Resource != c.resource || got.Endpoint.URL != c.token || !slices.Equal(got.Scopes, c.scopes) {
			t.Errorf("%s: got %+v, want the resource %s, the endpoint %s and the scopes %v", name, got, c.resource, c.token, c.scopes)
		}
	}
}

func TestMetadataThatCannotBeTrustedLeadToNoLogin(t *testing.T) {
	endless := func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		for range 17 {
			io.WriteString(rw, strings.Repeat(" ", 1<<16))
		}
	}
	as := "GET id.example/.well-known/oauth-authorization-server"
	for name, prepare := range map[string]func(*world){
		"another resource": func(w *world) {
			w.json("GET mcp.example/metadata", strings.ReplaceAll(metadataOf, "%", "https://evil.example/mcp"))
		},
		"no server": func(w *world) { w.json("GET mcp.example/metadata", `{"resource": "`+serverURL+`"}`) },
		"in clear text": func(w *world) {
			w.json("GET mcp.example/metadata", `{"resource": "`+serverURL+`", "authorization_servers": ["http://id.example"]}`)
		},
		"too long": func(w *world) { w.HandleFunc("GET mcp.example/metadata", endless) },
		"another issuer": func(w *world) {
			w.json(as, `{"issuer": "https://evil.example", "token_endpoint": "x", "code_challenge_methods_supported": ["S256"]}`)
		},
		"no PKCE": func(w *world) { w.json(as, `{"issuer": "`+issuerURL+`", "token_endpoint": "`+issuerURL+`/token"}`) },
		"no JSON": func(w *world) { w.json(as, `nonsense`) },
	} {
		w := newWorld()
		prepare(w)
		wantRefusal(t, name, do(t.Context(), w.auth()), 401, true)
		if n := w.logins.Load(); n != 0 {
			t.Errorf("%s: %d logins, want none", name, n)
		}
	}
}

// A server whose answers repeat the token has no errors that show it, see wantRefusal.
func TestARefusalIsAnErrorWithoutTheToken(t *testing.T) {
	w := newWorld()
	a := w.auth()
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.refuse = func(string) bool { return true }
	wantRefusal(t, "refused", do(t.Context(), a), 401, false)
	w.token = noRefresh
	w.failing.Store(true)
	err := do(t.Context(), a)
	secrets.Check(t, "no refresh", err)
}

func TestNothingThatIsPrintedShowsASecret(t *testing.T) {
	secrets.CheckTypes(t, func(t *testing.T) map[string][]any {
		w := newWorld()
		a := w.auth()
		a.Endpoint.ClientSecret = "hush-hush"
		a.Server = "https://mcp.example/mcp"
		var d *mcpauth.Discovery
		login := a.Login
		a.Login = func(ctx context.Context, found *mcpauth.Discovery) (*tokensource.Token, error) {
			d = found
			return login(ctx, found)
		}
		if err := do(t.Context(), a); err != nil {
			t.Error(err)
		}
		return map[string][]any{"Auth": {a, []any{a}}, "Discovery": {d, *d}}
	})
}
