package interop_test

import (
	"context"
	"crypto/elliptic"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/storage"

	"github.com/tokentripper/tokentripper/tokensource"
)

// trusted returns an assertion of an issuer that the server trusts to speak
// for peter.
func (s *server) trusted() *tokensource.SignedJWT {
	const issuer, subject, kid = "https://idp.example.com", "peter", "2026-1"
	key := ecKey(elliptic.P256())()
	public := &jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
	s.Store.IssuerPublicKeys[issuer] = storage.IssuerPublicKeys{Issuer: issuer, KeysBySub: map[string]storage.SubjectPublicKeys{
		subject: {Subject: subject, Keys: map[string]storage.PublicKeyScopes{kid: {Key: public, Scopes: []string{"api"}}}},
	}}
	return &tokensource.SignedJWT{Key: key, KeyID: kid, Issuer: issuer, Subject: subject, Audience: []string{s.tokenURL()}}
}

func TestAnAssertionObtainsTokensWithAndWithoutAClient(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		// Where it may, fosite ignores even bad client authentication.
		s := newServer(t, fosite.Config{GrantTypeJWTBearerCanSkipClientAuth: anonymous})
		e := tokensource.Endpoint{URL: s.tokenURL(), Client: s.Client}
		if !anonymous {
			e = s.confidential(t, "client_secret_basic")
		}
		cache := &tokensource.Cache{Source: &tokensource.JWTBearer{Endpoint: e, Assertion: s.trusted(), Scopes: []string{"api"}}}
		client := s.client(cache)
		for range 3 {
			s.callMany(t, client, 5, 0)
			s.endCurrent(t, cache)
		}
		if got := s.saw(); got.Requests != 3 || got.Issued != 3 {
			t.Errorf("without a client: %v: got %+v, want 3 tokens", anonymous, got)
		}
	}
}

func TestARefusedAssertionTellsWhatTheServerSaid(t *testing.T) {
	type source = tokensource.JWTBearer
	for name, bad := range map[string]struct {
		spoil             func(*source, *tokensource.SignedJWT)
		code, description string
	}{
		"wrong audience": {func(_ *source, jwt *tokensource.SignedJWT) { jwt.Audience = []string{"https://another.example.com"} },
			"invalid_grant", "MUST contain an 'aud' (audience) claim containing a value 'http://127.0.0.1:80/token'"},
		"lives too long": {func(_ *source, jwt *tokensource.SignedJWT) { jwt.Lifetime = 25 * time.Hour },
			"invalid_grant", "unreasonably far in the future"},
		"unknown subject": {func(_ *source, jwt *tokensource.SignedJWT) { jwt.Subject = "paul" },
			"invalid_grant", "No public JWK was registered for issuer 'https://idp.example.com' and subject 'paul'"},
		"wrong key": {func(_ *source, jwt *tokensource.SignedJWT) { jwt.Key = ecKey(elliptic.P256())() },
			"invalid_grant", "Unable to verify the integrity"},
		"wrong scope": {func(s *source, _ *tokensource.SignedJWT) { s.Scopes = []string{"admin"} },
			"invalid_scope", "is not allowed to request scope 'admin'"},
		"expired": {func(s *source, jwt *tokensource.SignedJWT) { s.Assertion = expired(jwt) },
			"invalid_grant", "request parameter expired"},
		"reused": {func(s *source, jwt *tokensource.SignedJWT) {
			s.Assertion = again(jwt)
			must(s.Token(context.Background(), nil))
		}, "jti_known", "The jti was already used"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServerInBubble(t, fosite.Config{GrantTypeJWTBearerCanSkipClientAuth: true})
			jwt := s.trusted()
			source := &source{Endpoint: tokensource.Endpoint{URL: s.tokenURL(), Client: s.Client}, Assertion: jwt}
			bad.spoil(source, jwt)
			_, err := source.Token(t.Context(), nil)
			if e := refusal(t, err, bad.code); e.StatusCode != 400 || !strings.Contains(e.Description, bad.description) {
				t.Errorf("%s: got status %d, description %q, want %q", name, e.StatusCode, e.Description, bad.description)
			}
		})
	}
}
