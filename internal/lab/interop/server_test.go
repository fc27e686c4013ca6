package interop_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/storage"
)

// A server is fosite, with endpoints for authorization, tokens and revocation,
// and an API that asks it about tokens.
type server struct {
	URL    string
	Client *http.Client
	Store  *storage.MemoryStore

	config   *fosite.Config
	strategy *oauth2.HMACSHAStrategy
	provider fosite.OAuth2Provider

	mu     sync.Mutex // guards what follows
	counts counts
	spent  map[string]bool // the refresh tokens that were sent
}

// counts are what a server has seen.
type counts struct {
	Requests int // of tokens, but for logins
	Issued   int // tokens, in answer to these
	Reused   int // requests with a refresh token that was sent before, see note
	Refused  int // requests that the API refused
}

// newServer starts a server on loopback.
func newServer(t *testing.T, config fosite.Config) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, config, l)
}

// newServerInBubble starts a server without a socket, so that fake time passes
// while somebody waits for it.
func newServerInBubble(t *testing.T, config fosite.Config) *server {
	t.Helper()
	p := &pipes{make(chan net.Conn), make(chan struct{}), sync.Once{}}
	s := serve(t, config, p)
	s.Client.Transport.(*http.Transport).DialContext = p.dial
	return s
}

func serve(t *testing.T, config fosite.Config, l net.Listener) *server {
	mux := http.NewServeMux()
	web := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	web.Start()
	t.Cleanup(web.Close)

	s := &server{URL: web.URL, Client: web.Client(), Store: storage.NewMemoryStore(), config: &config, spent: map[string]bool{}}
	s.compose()
	s.register(t, fosite.DefaultOpenIDConnectClient{TokenEndpointAuthMethod: "none"}, phone, "")
	mux.HandleFunc("/authorize", s.authorize)
	mux.HandleFunc("/token", s.token)
	mux.HandleFunc("/revoke", s.revoke)
	mux.HandleFunc("/api", s.api)
	return s
}

// compose completes the configuration and makes the provider.
func (s *server) compose() {
	c := s.config
	c.GlobalSecret = []byte(rand.Text() + rand.Text())
	c.TokenURL = s.tokenURL()
	c.HashCost = 4 // the least
	c.EnforcePKCE = true
	// Else an API would find refresh tokens good, too. And the store lets
	// introspection race with rotation.
	c.DisableRefreshTokenValidation = true
	// Fosite would set these at their first use, without a lock.
	c.ScopeStrategy = fosite.ExactScopeStrategy
	c.AudienceMatchingStrategy = fosite.DefaultAudienceMatchingStrategy
	c.ClientSecretsHasher = &fosite.BCrypt{Config: c}

	s.strategy = compose.NewOAuth2HMACStrategy(c)
	s.provider = compose.Compose(c, s.Store, s.strategy,
		compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2PKCEFactory,
		compose.OAuth2ClientCredentialsGrantFactory,
		compose.OAuth2RefreshTokenGrantFactory,
		compose.RFC7523AssertionGrantFactory,
		compose.OAuth2TokenIntrospectionFactory,
		compose.OAuth2TokenRevocationFactory)
}

func (s *server) tokenURL() string { return s.URL + "/token" }

// authorize answers as if the user had logged in and agreed.
func (s *server) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	req, err := s.provider.NewAuthorizeRequest(ctx, r)
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, req, err)
		return
	}
	for _, scope := range req.GetRequestedScopes() {
		req.GrantScope(scope)
	}
	resp, err := s.provider.NewAuthorizeResponse(ctx, req, &fosite.DefaultSession{Subject: "peter"})
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, req, err)
		return
	}
	s.provider.WriteAuthorizeResponse(ctx, w, req, resp)
}

func (s *server) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var resp fosite.AccessResponder
	req, err := s.provider.NewAccessRequest(ctx, r, &fosite.DefaultSession{})
	if err == nil {
		for _, scope := range req.GetRequestedScopes() {
			req.GrantScope(scope)
		}
		resp, err = s.provider.NewAccessResponse(ctx, req)
	}
	s.note(r.PostForm, err)
	if err != nil {
		s.provider.WriteAccessError(ctx, w, req, err)
		return
	}
	s.provider.WriteAccessResponse(ctx, w, req, resp)
}

// note counts a token request. It does not leave reuse to fosite, whose store
// does not rotate atomically: of several requests at once, two may succeed.
func (s *server) note(form url.Values, err error) {
	if form.Get("grant_type") == "authorization_code" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Requests++
	if err == nil {
		s.counts.Issued++
	}
	if refresh := form.Get("refresh_token"); refresh != "" {
		if s.spent[refresh] {
			s.counts.Reused++
		}
		s.spent[refresh] = true
	}
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) {
	s.provider.WriteRevocationResponse(r.Context(), w, s.provider.NewRevocationRequest(r.Context(), r))
}

// api reads the body, asks about the token, and returns the body or a refusal.
func (s *server) api(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	token := fosite.AccessTokenFromRequest(r)
	_, _, err = s.provider.IntrospectToken(r.Context(), token, fosite.AccessToken, &fosite.DefaultSession{})
	if err != nil {
		s.mu.Lock()
		s.counts.Refused++
		s.mu.Unlock()
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
		return
	}
	w.Write(body)
}

// saw returns what the server has seen since it was asked before.
func (s *server) saw() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.counts
	s.counts = counts{}
	return seen
}

// end makes an access token invalid, and leaves the refresh token alone, as no
// request to fosite can.
func (s *server) end(access string) {
	ctx := context.Background()
	s.Store.DeleteAccessTokenSession(ctx, s.strategy.AccessTokenSignature(ctx, access))
}

// register makes a client known, with all grants, before any request is in flight.
func (s *server) register(t *testing.T, c fosite.DefaultOpenIDConnectClient, id, secret string) {
	t.Helper()
	hash, err := s.config.ClientSecretsHasher.Hash(t.Context(), []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	c.DefaultClient = &fosite.DefaultClient{
		ID: id, Secret: hash, Public: c.TokenEndpointAuthMethod == "none",
		GrantTypes:   []string{"client_credentials", "authorization_code", "refresh_token", string(fosite.GrantTypeJWTBearer)},
		RedirectURIs: []string{redirectURI}, Scopes: []string{"api", "offline"},
	}
	s.Store.Clients[id] = &c
}

// pipes is a listener for connections within a process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is loopback, where http needs no permission.
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
