package interop_test

import (
	"errors"
	"net/url"
	"testing"

	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
)

// revokeToken revokes a token at the server's endpoint (RFC 7009).
func (s *server) revokeToken(t *testing.T, e tokensource.Endpoint, token string) {
	t.Helper()
	form := url.Values{"token": {token}, "client_id": {e.ClientID}}
	if e.ClientSecret != "" {
		form.Set("client_secret", e.ClientSecret)
	}
	resp, err := s.Client.PostForm(s.URL+"/revoke", form)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("revocation: got status %d, want 200", resp.StatusCode)
	}
}

func TestARevokedAccessTokenIsReplacedOnceForAllBodies(t *testing.T) {
	s := newServer(t, fosite.Config{})
	e := s.confidential(t, "client_secret_post")
	cache := &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: e}}
	client := s.client(cache)
	s.callMany(t, client, 20, 0)
	old, err := cache.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.saw()

	s.revokeToken(t, e, old.AccessToken)
	s.callMany(t, client, 20, 0) // checks the bodies
	got := s.saw()
	if got.Requests != 1 || got.Issued != 1 || got.Refused == 0 {
		t.Errorf("got %+v, want refusals and one new token", got)
	}
}

// Fosite revokes both, whichever it is given. RFC 7009 section 2.1 leaves it the choice
// for the access token.
func TestARevokedRefreshOrAccessTokenNeedsALogin(t *testing.T) {
	for name, pick := range map[string]func(*tokensource.Token) string{
		"refresh token": func(token *tokensource.Token) string { return token.RefreshToken },
		"access token":  func(token *tokensource.Token) string { return token.AccessToken },
	} {
		s := newServer(t, fosite.Config{})
		cache, token := s.loggedIn(t)
		client := s.client(cache)
		s.callMany(t, client, 5, 0)

		s.revokeToken(t, s.public(), pick(token))
		for range 2 {
			if err := s.call(client, 0); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("%s revoked: got error %v, want ErrReauthenticate", name, err)
			}
		}
		if got := s.saw(); got.Requests != 1 || got.Issued != 0 {
			t.Errorf("%s revoked: got %+v, want one exchange that failed", name, got)
		}
	}
}
