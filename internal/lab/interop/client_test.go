package interop_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// phone is the id of a public client, which has no secret.
const phone, redirectURI = "phone", "http://127.0.0.1/callback"

// public returns how phone reaches the token endpoint.
func (s *server) public() tokensource.Endpoint {
	return tokensource.Endpoint{URL: s.tokenURL(), Client: s.Client, ClientID: phone}
}

// confidential registers a client with a secret, both with characters that HTTP Basic
// cannot carry as they are.
func (s *server) confidential(t *testing.T, method string) tokensource.Endpoint {
	t.Helper()
	const id, secret = "svc: café &co+1%", `p@ss:w%41rd +/=?&ü"\`
	s.register(t, fosite.DefaultOpenIDConnectClient{TokenEndpointAuthMethod: method}, id, secret)
	return tokensource.Endpoint{
		URL: s.tokenURL(), Client: s.Client, ClientID: id,
		ClientSecret: secret, ClientSecretPost: method == "client_secret_post",
	}
}

// client returns a client of the API.
func (s *server) client(source tokensource.Source) *http.Client {
	return &http.Client{Transport: &transport.Auth{Source: source, Base: s.Client.Transport}}
}

// call sends a body that cannot be read twice to the API, with a pause before
// the end, and checks that it arrived whole.
func (s *server) call(client *http.Client, pause time.Duration) error {
	sent := rand.Text() + strings.Repeat("x", 5000)
	body := io.MultiReader(strings.NewReader(sent[:2000]), &pausing{strings.NewReader(sent[2000:]), pause})
	resp, err := client.Post(s.URL+"/api", "text/plain", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || string(got) != sent) {
		err = fmt.Errorf("got status %d and %d bytes, want 200 and the body", resp.StatusCode, len(got))
	}
	return err
}

type pausing struct {
	io.Reader
	pause time.Duration
}

func (p *pausing) Read(b []byte) (int, error) {
	time.Sleep(p.pause) // fake time, or none
	p.pause = 0
	return p.Reader.Read(b)
}

// callMany calls from n goroutines at once.
func (s *server) callMany(t *testing.T, client *http.Client, n int, pause time.Duration) {
	t.Helper()
	errs := make(chan error, n)
	for range n {
		go func() { errs <- s.call(client, pause) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// login logs a user in with an authorization code (RFC 6749 section 4.1) and PKCE
// (RFC 7636), and is both the browser and the client.
func (s *server) login(t *testing.T, e tokensource.Endpoint) *tokensource.Token {
	t.Helper()
	verifier := rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"response_type": {"code"}, "client_id": {e.ClientID}, "redirect_uri": {redirectURI}, "scope": {"offline"},
		"state": {rand.Text()}, "code_challenge": {base64.RawURLEncoding.EncodeToString(hash[:])}, "code_challenge_method": {"S256"},
	}
	resp, err := s.Client.Transport.RoundTrip(must(http.NewRequestWithContext(t.Context(), "GET", s.URL+"/authorize?"+query.Encode(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	token, err := e.Exchange(t.Context(), url.Values{
		"grant_type": {"authorization_code"}, "redirect_uri": {redirectURI},
		"code": {back.Query().Get("code")}, "code_verifier": {verifier},
	})
	if err != nil || token.RefreshToken == "" {
		t.Fatalf("login: got %v, %v, want a token with a refresh token", token, err)
	}
	return token
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// refusal returns the token endpoint's refusal, which must have this code, and never
// be a reason to log in again.
func refusal(t *testing.T, err error, code string) *tokensource.EndpointError {
	t.Helper()
	e, ok := errors.AsType[*tokensource.EndpointError](err)
	if !ok || e.Code != code || errors.Is(err, tokensource.ErrReauthenticate) {
		t.Fatalf("got error %v, want an EndpointError with the code %s that asks for no login", err, code)
	}
	return e
}

func TestAnEscapedSecretIsAccepted(t *testing.T) {
	for _, method := range []string{"client_secret_basic", "client_secret_post"} {
		s := newServer(t, fosite.Config{})
		source := &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: s.confidential(t, method), Scopes: []string{"api"}}}
		if err := s.call(s.client(source), 0); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		if got, want := s.saw(), (counts{Requests: 1, Issued: 1}); got != want {
			t.Errorf("%s: got %+v, want %+v", method, got, want)
		}
	}
}

func TestAWrongSecretIsToldFromAWrongScope(t *testing.T) {
	s := newServer(t, fosite.Config{})
	source := &tokensource.ClientCredentials{Endpoint: s.confidential(t, "client_secret_basic"), Scopes: []string{"admin"}}
	_, err := source.Token(t.Context(), nil)
	if e := refusal(t, err, "invalid_scope"); !strings.Contains(e.Description, "not allowed to request scope 'admin'") {
		t.Errorf("got description %q", e.Description)
	}

	source.Endpoint.ClientSecret = "another"
	_, err = source.Token(t.Context(), nil)
	if e := refusal(t, err, "invalid_client"); e.StatusCode != 401 || !strings.HasPrefix(e.Description, "Client authentication failed") {
		t.Errorf("got status %d, description %q", e.StatusCode, e.Description)
	}
}

func TestAPublicClientRefreshesWithItsIDAlone(t *testing.T) {
	s := newServer(t, fosite.Config{})
	e := s.public()
	first := s.login(t, e)
	source := &tokensource.RefreshToken{Endpoint: e, RefreshToken: first.RefreshToken}
	second, err := source.Token(t.Context(), nil)
	if err != nil || second.RefreshToken == first.RefreshToken || second.RefreshToken == "" {
		t.Fatalf("got %v, %v, want a token with another refresh token", second, err)
	}
	if err := s.call(s.client(tokensource.Static(second)), 0); err != nil {
		t.Error(err)
	}
}

func TestATokenExchangeIsRefusedByAServerWithoutIt(t *testing.T) {
	s := newServer(t, fosite.Config{})
	source := &tokensource.TokenExchange{
		Endpoint: s.confidential(t, "client_secret_basic"),
		Subject:  tokensource.Static(&tokensource.Token{AccessToken: "user"}),
	}
	_, err := source.Token(t.Context(), nil)
	refusal(t, err, "invalid_request") // RFC 6749 section 5.2 would be unsupported_grant_type
}
