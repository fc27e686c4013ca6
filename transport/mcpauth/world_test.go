package mcpauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

const (
	serverURL = "https://mcp.example/mcp"
	issuerURL = "https://id.example"
	named     = "https://mcp.example/metadata"
)

// A world is an MCP server and an authorization server without a network, so that tests can run in a bubble.
type world struct {
	*http.ServeMux
	logins   atomic.Int32
	requests atomic.Int32 // of the MCP server
	failing  atomic.Bool  // logins fail

	mu     sync.Mutex
	forms  []url.Values // of the token requests
	issued int
	refuse func(token string) bool // nil: accept the last token
	token  func(form url.Values) string
}

func newWorld() *world {
	w := &world{ServeMux: http.NewServeMux()}
	w.json("mcp.example/metadata", `{"resource": "`+serverURL+`", "authorization_servers": ["`+issuerURL+`"], "scopes_supported": ["b", "a"]}`)
	w.json("id.example/.well-known/oauth-authorization-server", `{"issuer": "`+issuerURL+`", "token_endpoint": "`+issuerURL+`/token",
		"code_challenge_methods_supported": ["S256"], "token_endpoint_auth_methods_supported": ["client_secret_post"]}`)
	w.HandleFunc("id.example/token", w.exchange)
	w.HandleFunc("mcp.example/mcp", w.answer)
	return w
}

// json serves a text.
func (w *world) json(pattern, text string) {
	w.HandleFunc(pattern, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		io.WriteString(rw, text)
	})
}

// exchange issues a token, unless w.token returns another reply.
func (w *world) exchange(rw http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forms = append(w.forms, r.PostForm)
	rw.Header().Set("Content-Type", "application/json")
	if w.token != nil {
		if reply := w.token(r.PostForm); reply != "" {
			rw.WriteHeader(400)
			io.WriteString(rw, reply)
			return
		}
	}
	w.issued++
	fmt.Fprintf(rw, `{"access_token": "hush-hush-%d", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "hush-hush-r%[1]d", "id_token": "hush-hush"}`, w.issued)
}

// answer accepts the last token.
func (w *world) answer(rw http.ResponseWriter, r *http.Request) {
	w.requests.Add(1)
	io.Copy(io.Discard, r.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	refused := token != fmt.Sprint("hush-hush-", w.issued)
	if w.refuse != nil {
		refused = w.refuse(token)
	}
	if refused || !ok {
		rw.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+named+`", error_description="got `+token+`"`)
		rw.WriteHeader(401)
	}
}

// RoundTrip lets a handler answer.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if req.Body == nil {
		req.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, req)
	req.Body.Close()
	return rec.Result(), nil
}

var errNoBrowser = errors.New("there is no browser")

// login registers a client and exchanges a code.
func (w *world) login(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	w.logins.Add(1)
	if w.failing.Load() {
		return nil, errNoBrowser
	}
	d.Endpoint.ClientID, d.Endpoint.ClientSecret = "registered", "hush-hush-secret"
	return d.Endpoint.Exchange(ctx, url.Values{"grant_type": {"authorization_code"}, "code": {"1"}})
}

func (w *world) auth() *mcpauth.Auth {
	return &mcpauth.Auth{Server: serverURL, Login: w.login, Base: w, Endpoint: tokensource.Endpoint{Client: &http.Client{Transport: w}}}
}

// do sends a request as the SDK does.
func do(ctx context.Context, a http.RoundTripper) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, serverURL, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := a.RoundTrip(req)
	if err != nil {
		return err
	}
	if resp.Body.Close(); resp.StatusCode != 200 || resp.Request != req {
		return fmt.Errorf("status %d for %p, want 200 for %p", resp.StatusCode, resp.Request, req)
	}
	return nil
}

// wantRefusal fails the test unless err is an error of the status, without a secret.
func wantRefusal(t *testing.T, what string, err error, status int, login bool) {
	t.Helper()
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || e.StatusCode != status || errors.Is(err, tokensource.ErrReauthenticate) != login {
		t.Errorf("%s: got %v, want the status %d, and a login needed: %t", what, err, status, login)
	}
	secrets.Check(t, what, err)
	if ok {
		secrets.Check(t, what, *e)
	}
}
