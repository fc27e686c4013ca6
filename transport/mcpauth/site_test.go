package mcpauth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// A site is an MCP server of the SDK, whose tokens are those of the embedded server.
type site struct {
	*tokentest.Server
	mux    *http.ServeMux
	server *mcp.Server
	url    string // of the MCP server

	closed atomic.Bool // refuses every token
	logins atomic.Int32

	mu    sync.Mutex
	forms []url.Values // of the token requests
	cut   []func()     // ends the streams
}

func newSite(t *testing.T) *site {
	s := &site{Server: tokentest.NewServer(t), mux: http.NewServeMux()}
	srv := httptest.NewServer(s.mux)
	t.Cleanup(func() { s.cutStreams(); srv.CloseClientConnections(); srv.Close() })
	s.url = srv.URL + "/mcp"
	named := srv.URL + "/metadata"
	s.mux.Handle("/metadata", auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{
		Resource: s.url, AuthorizationServers: []string{srv.URL}, ScopesSupported: []string{"tools"}}))
	s.mux.HandleFunc("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(&oauthex.AuthServerMeta{Issuer: srv.URL, AuthorizationEndpoint: srv.URL + "/authorize",
			TokenEndpoint: s.TokenURL(), CodeChallengeMethodsSupported: []string{"S256"}})
	})
	s.server = mcp.NewServer(&mcp.Implementation{Name: "site", Version: "1"}, nil)
	mcp.AddTool(s.server, &mcp.Tool{Name: "wait"}, wait)
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s.server },
		&mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)})
	s.mux.Handle("/mcp", auth.RequireBearerToken(s.verify, &auth.RequireBearerTokenOptions{ResourceMetadataURL: named})(s.streams(handler)))
	return s
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

// login stands for a user in a browser: the embedded server has no authorization endpoint, but hands out
// refresh tokens as from a login.
func (s *site) login(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	s.logins.Add(1)
	d.Endpoint.ClientID, d.Endpoint.ClientSecret = s.ClientID, s.ClientSecret // as by a registration
	return d.Endpoint.Exchange(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.RefreshToken()}})
}

// auth returns an Auth for the site, whose token requests are in s.forms.
func (s *site) auth() *mcpauth.Auth {
	return &mcpauth.Auth{Server: s.url, Login: s.login, Endpoint: tokensource.Endpoint{Client: &http.Client{Transport: s}}}
}

// RoundTrip records the token requests.
func (s *site) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		body, _ := req.GetBody()
		text, _ := io.ReadAll(body)
		form, _ := url.ParseQuery(string(text))
		s.mu.Lock()
		s.forms = append(s.forms, form)
		s.mu.Unlock()
	}
	return http.DefaultTransport.RoundTrip(req)
}

// connect returns a session of the SDK's client.
func (s *site) connect(t *testing.T, a http.RoundTripper, options *mcp.ClientOptions) *mcp.ClientSession {
	t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, options)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: s.url, HTTPClient: &http.Client{Transport: a}}, nil)
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
