package docs_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A provider answers each path as its documentation says, and keeps what it was sent.
type provider struct {
	*httptest.Server
	replies map[string][]string // of each path, in turn; the last again and again
	got     []*http.Request
	bodies  []string
}

func newProvider(t *testing.T, replies map[string][]string) *provider {
	p := &provider{replies: replies}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.got, p.bodies = append(p.got, r), append(p.bodies, string(body))
		left := p.replies[r.URL.Path]
		if len(left) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if len(left) > 1 {
			p.replies[r.URL.Path] = left[1:]
		}
		status, reply, _ := strings.Cut(left[0], " ")
		var code int
		fmt.Sscan(status, &code)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		io.WriteString(w, reply)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) form(t *testing.T, i int) url.Values {
	t.Helper()
	form, err := url.ParseQuery(p.bodies[i])
	if err != nil {
		t.Fatal(err)
	}
	return form
}

func wantToken(t *testing.T, s tokensource.Source, old *tokensource.Token, access string, left time.Duration) *tokensource.Token {
	t.Helper()
	token, err := s.Token(t.Context(), old)
	if err != nil || token.AccessToken != access {
		t.Fatalf("got %v, error %v; want the token %q", token, err, access)
	}
	if got := time.Until(token.Expiry).Round(time.Minute); left > 0 && got != left {
		t.Errorf("got a token for %v; want one for %v", got, left)
	}
	return token
}

// wantClaims wants these claims in a token that key has signed.
func wantClaims(t *testing.T, token string, key crypto.Signer, want map[string]any) {
	t.Helper()
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return key.Public(), nil }); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if fmt.Sprint(claims[name]) != fmt.Sprint(value) {
			t.Errorf("%s: got %v; want %v", name, claims[name], value)
		}
	}
}

func rsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRecipeGitHubApp(t *testing.T) {
	expires := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	p := newProvider(t, map[string][]string{"/app/installations/42/access_tokens": {`201 {"token":"ghs_1","expires_at":"` + expires + `"}`}})
	key := rsaKey(t)
	wantToken(t, gitHubApp(p.URL, "Iv1.app", "42", key), nil, "ghs_1", time.Hour)
	scheme, app, _ := strings.Cut(p.got[0].Header.Get("Authorization"), " ")
	if scheme != "Bearer" {
		t.Errorf("got the scheme %q; want Bearer", scheme)
	}
	wantClaims(t, app, key, map[string]any{"iss": "Iv1.app"})
}

func TestRecipeGoogleServiceAccount(t *testing.T) {
	p := newProvider(t, map[string][]string{"/token": {`200 {"access_token":"ya29","expires_in":3599,"token_type":"Bearer"}`}})
	key := rsaKey(t)
	wantToken(t, googleServiceAccount(p.URL+"/token", "me@example.iam", "k1", key, "a", "b"), nil, "ya29", time.Hour)
	wantClaims(t, p.form(t, 0).Get("assertion"), key, map[string]any{"iss": "me@example.iam", "scope": "a b"})
}

func TestRecipeAzureWorkload(t *testing.T) {
	p := newProvider(t, map[string][]string{"/tenant/oauth2/v2.0/token": {`200 {"token_type":"Bearer","expires_in":3599,"access_token":"eyJ"}`}})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("federated"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantToken(t, azureWorkload(p.URL+"/", "tenant", "client", file, "https://graph.example.com/.default"), nil, "eyJ", time.Hour)
	form := p.form(t, 0)
	if form.Get("client_assertion") != "federated" || form.Get("scope") != "https://graph.example.com/.default" {
		t.Errorf("got %v; want the federated token as assertion, and the scope", form)
	}
}

func TestRecipeProjectedToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, content := range []string{"first", "second"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		wantToken(t, projected(file), nil, content, 0)
	}
}

func TestRecipeSalesforce(t *testing.T) {
	p := newProvider(t, map[string][]string{"/services/oauth2/token": {`200 {"access_token":"00D","instance_url":"https://my.example.com","token_type":"Bearer"}`}})
	key := rsaKey(t)
	source := salesforce(p.URL, "consumer", "me@example.com", key)
	wantToken(t, source, nil, "00D", 0)
	wantClaims(t, p.form(t, 0).Get("assertion"), key, map[string]any{"iss": "consumer", "sub": "me@example.com"})
	if got, err := instanceURL(t.Context(), source); got != "https://my.example.com" || err != nil {
		t.Errorf("got the instance %q, %v; want https://my.example.com", got, err)
	}
}

func TestRecipeSnowflake(t *testing.T) {
	key := rsaKey(t)
	source, err := snowflake("ORG-ACCOUNT", "ME", key)
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, map[string][]string{"/api": {"200 {}"}})
	client := &http.Client{Transport: &transport.Auth{Source: source, Base: snowflakeType{http.DefaultTransport}}}
	resp, err := client.Get(p.URL + "/api")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := p.got[0].Header.Get("X-Snowflake-Authorization-Token-Type"); got != "KEYPAIR_JWT" {
		t.Errorf("got the type %q; want KEYPAIR_JWT", got)
	}
	_, token, _ := strings.Cut(p.got[0].Header.Get("Authorization"), " ")
	wantClaims(t, token, key, map[string]any{"sub": "ORG-ACCOUNT.ME"})
}

func TestRecipeSlack(t *testing.T) {
	p := newProvider(t, map[string][]string{"/api/oauth.v2.access": {
		`200 {"ok":true,"access_token":"xoxe.xoxb-2","refresh_token":"xoxe-2","token_type":"bot","expires_in":43200}`,
		`200 {"ok":false,"error":"invalid_refresh_token"}`,
	}, "/api/chat": {`200 {"ok":false,"error":"token_expired"}`}})
	source := slack(p.URL+"/api", "id", "secret", "xoxe-1")
	token := wantToken(t, source, nil, "xoxe.xoxb-2", 12*time.Hour)
	if value, err := token.Authorization(); value != "Bearer xoxe.xoxb-2" {
		t.Errorf("got %q, error %v; want the token as Bearer", value, err)
	}
	if _, err := source.Token(t.Context(), token); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got error %v; want ErrReauthenticate", err)
	}
	resp, err := http.Get(p.URL + "/api/chat")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if !slackRefuses(resp) {
		t.Error("an answer with token_expired counts as accepted; want that it refuses")
	}
}

func TestRecipeVault(t *testing.T) {
	reply := func(token string) string {
		return `200 {"auth":{"client_token":"` + token + `","lease_duration":3600}}`
	}
	p := newProvider(t, map[string][]string{
		"/v1/auth/approle/login":    {reply("hvs.1"), reply("hvs.2")},
		"/v1/auth/token/renew-self": {`403 {"errors":["permission denied"]}`},
	})
	source := vault(p.URL, "role", "secret")
	first := wantToken(t, source, nil, "hvs.1", time.Hour)
	wantToken(t, source, first, "hvs.2", time.Hour)
	var sent map[string]string
	if err := json.Unmarshal([]byte(p.bodies[0]), &sent); err != nil || sent["role_id"] != "role" {
		t.Errorf("got %s; want the role's id", p.bodies[0])
	}
}

func TestRecipeRegistry(t *testing.T) {
	p := newProvider(t, map[string][]string{"/token": {`200 {"access_token":"pull","expires_in":300}`}})
	source := registry(p.URL+"/token", "registry.example.com", "me", "secret")
	ctx := context.WithValue(t.Context(), scopeKey{}, "repository:a/b:pull")
	token, err := source.Token(ctx, nil)
	if err != nil || token.AccessToken != "pull" {
		t.Fatalf("got %v, error %v; want the token of the scope", token, err)
	}
	if got := p.form(t, 0); got.Get("scope") != "repository:a/b:pull" || got.Get("service") != "registry.example.com" {
		t.Errorf("got %v; want the scope and the service", got)
	}
	challenge := http.Header{"Www-Authenticate": {`Bearer realm="https://auth.example.com/token",service="s",scope="repository:a/b:pull"`}}
	realm, service, scope := scopeOf(&http.Response{StatusCode: http.StatusUnauthorized, Header: challenge})
	if realm != "https://auth.example.com/token" || service != "s" || scope != "repository:a/b:pull" {
		t.Errorf("got %s, %s, %s; want what the challenge says", realm, service, scope)
	}
}

func TestKeepAliveRefreshesWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		err := keepAlive(ctx, &tokensource.Cache{Source: tokens}, time.Minute)
		if n := tokens.requests.Load(); n < 26 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %d refreshes in a day, error %v; want more than one for each hour", n, err)
		}
	})
}
