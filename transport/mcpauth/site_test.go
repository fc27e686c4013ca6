package mcpauth_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// A site is an MCP server of the SDK with an authorization server, which adds an
// authorization endpoint to a tokentest.Server. It does not ask the user.
type site struct {
	*tokentest.Server
	front    *httptest.Server
	server   *mcp.Server
	endpoint string // of the MCP server

	closed atomic.Bool // refuses every token

	mu     sync.Mutex
	visits int               // of users at the authorization endpoint
	codes  map[string]string // the code challenges (RFC 7636)
	forms  []url.Values      // of the token requests
	cut    []func()          // ends the streams
}

func newSite(t *testing.T) *site {
	s := startServer()
	t.Cleanup(s.Close)
	return s
}

func startServer() *site {
	mux := http.NewServeMux()
	s := &site{Server: tokentest.Start(), front: httptest.NewServer(mux), codes: map[string]string{}}
	at := s.front.URL
	s.endpoint = at + "/mcp"
	mux.Handle("/metadata", auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource: s.endpoint, AuthorizationServers: []string{at}, ScopesSupported: []string{"tools"}}))
	mux.HandleFunc("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(&oauthex.AuthServerMeta{Issuer: at, AuthorizationEndpoint: at + "/authorize",
			TokenEndpoint: at + "/token", CodeChallengeMethodsSupported: []string{"S256"}})
	})
	mux.HandleFunc("/authorize", s.authorize)
	mux.HandleFunc("/token", s.exchange)

	s.server = mcp.NewServer(&mcp.Implementation{Name: "site", Version: "1"}, nil)
	mcp.AddTool(s.server, &mcp.Tool{Name: "wait"}, wait)
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.server },
		&mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)})
	guard := auth.RequireBearerToken(s.verify, &auth.RequireBearerTokenOptions{ResourceMetadataURL: at + "/metadata"})
	mux.Handle("/mcp", guard(s.streams(handler)))
	return s
}

// Close ends both servers.
func (s *site) Close() {
	s.cutStreams()
	s.front.CloseClientConnections()
	s.front.Close()
	s.Server.Close()
}

// authorize sends the user back with a code.
func (s *site) authorize(w http.ResponseWriter, r *http.Request) {
	q, code := r.URL.Query(), rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits++
	s.codes[code] = q.Get("code_challenge")
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
}

// exchange is the token endpoint. A code is worth a refresh token of the embedded server, which knows one client.
func (s *site) exchange(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	form := r.PostForm
	s.mu.Lock()
	s.forms = append(s.forms, maps.Clone(form))
	challenge := s.codes[form.Get("code")]
	delete(s.codes, form.Get("code"))
	s.mu.Unlock()
	if challenge != "" && challenge == oauth2.S256ChallengeFromVerifier(form.Get("code_verifier")) {
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.RefreshToken()}}
	}
	form.Set("client_id", s.ClientID)
	resp, err := http.PostForm(s.TokenURL(), form)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

// verify accepts the tokens that are good at the embedded server.
func (s *site) verify(_ context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
	user, _, err := s.Subject(token)
	if err != nil || s.closed.Load() {
		return nil, fmt.Errorf("%w: %v", auth.ErrInvalidToken, err)
	}
	return &auth.TokenInfo{UserID: user, Expiration: time.Now().Add(time.Hour)}, nil
}

// streams makes the standing streams end with cutStreams.
func (s *site) streams(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		if r.Method == http.MethodGet {
			s.mu.Lock()
			s.cut = append(s.cut, cancel)
			s.mu.Unlock()
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *site) cutStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cut := range s.cut {
		cut()
	}
	s.cut = nil
}

// wait is a tool whose calls take a while.
func wait(ctx context.Context, _ *mcp.CallToolRequest, in struct{ Milliseconds int }) (*mcp.CallToolResult, any, error) {
	select {
	case <-time.After(time.Duration(in.Milliseconds) * time.Millisecond):
		return &mcp.CallToolResult{}, nil, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

func (s *site) auth() *mcpauth.Auth {
	return &mcpauth.Auth{Server: s.endpoint, Login: logIn, Endpoint: tokensource.Endpoint{ClientID: "test"}}
}

// logins returns how many users have logged in.
func (s *site) logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visits
}

// connect returns a session of the SDK's client over a RoundTripper.
func (s *site) connect(t *testing.T, rt http.RoundTripper, options *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	return connectBy(t, &mcp.StreamableClientTransport{Endpoint: s.endpoint, HTTPClient: &http.Client{Transport: rt}}, options)
}

func connectBy(t *testing.T, transport mcp.Transport, options *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, options).Connect(t.Context(), transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// call calls the tool.
func call(ctx context.Context, session *mcp.ClientSession, length time.Duration) error {
	_, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "wait", Arguments: map[string]any{"Milliseconds": length.Milliseconds()}})
	return err
}
