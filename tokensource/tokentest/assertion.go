package tokentest

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	grantTypeJWTBearer  = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	assertionTypeClient = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// maxSkew is how far ahead the clock of an assertion's issuer may be.
const maxSkew = 20 * time.Second

// authenticateAssertion implements the method private_key_jwt, RFC 7523 section 2.2.
// The form may repeat the client's id, but must not contradict the assertion.
func (s *Server) authenticateAssertion(form url.Values) (clientKind, *reply) {
	if form.Get("client_assertion_type") != assertionTypeClient {
		return public, refuseClient("client_assertion_type is not " + assertionTypeClient)
	}
	if id := form.Get("client_id"); id != "" && id != s.ClientID {
		return public, refuseClient("client_id is not the client of the client_assertion")
	}
	if err := s.checkClientAssertion(form.Get("client_assertion")); err != nil {
		return public, refuseClient("client_assertion: " + err.Error())
	}
	return confidential, nil
}

func (s *Server) checkClientAssertion(raw string) error {
	c, err := s.parseAssertion(raw)
	switch {
	case err != nil:
		return err
	case c.Issuer != s.ClientID:
		return errors.New("iss is not the client")
	case c.Subject != s.ClientID:
		return errors.New("sub is not the client")
	case c.ID == "":
		return errors.New("no jti")
	}
	return s.spendAssertion(c)
}

// grantAssertion implements the grant of RFC 7523 section 2.1.
func (s *Server) grantAssertion(ask tokenRequest) reply {
	raw := ask.form.Get("assertion")
	if raw == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "no assertion")
	}
	c, err := s.checkGrantAssertion(raw)
	if err != nil {
		return oauthError(http.StatusBadRequest, "invalid_grant", "assertion: "+err.Error())
	}
	return s.tokenReply(s.grantAlone(grant{subject: c.Subject, key: ask.key}))
}

func (s *Server) checkGrantAssertion(raw string) (jwt.RegisteredClaims, error) {
	c, err := s.parseAssertion(raw)
	switch {
	case err != nil:
		return c, err
	case c.Issuer == "":
		return c, errors.New("no iss")
	case c.Subject == "":
		return c, errors.New("no sub")
	case c.ID == "":
		return c, nil
	}
	return c, s.spendAssertion(c)
}

// parseAssertion checks what RFC 7523 section 3 demands of both uses.
func (s *Server) parseAssertion(raw string) (jwt.RegisteredClaims, error) {
	var c jwt.RegisteredClaims
	if err := s.parseTrusted(raw, &c); err != nil {
		return c, err
	}
	now := time.Now()
	switch {
	case !slices.Contains(c.Audience, s.TokenURL()) && !slices.Contains(c.Audience, s.URL):
		return c, errors.New("aud is not this server")
	case c.ExpiresAt == nil:
		return c, errors.New("no exp")
	case !now.Before(c.ExpiresAt.Time):
		return c, errors.New("exp is over")
	case c.IssuedAt != nil && c.IssuedAt.After(now.Add(maxSkew)):
		return c, errors.New("iat is in the future")
	case c.NotBefore != nil && c.NotBefore.After(now.Add(maxSkew)):
		return c, errors.New("nbf is in the future")
	}
	return c, nil
}

// spendAssertion makes an assertion valid for one use. A jti is unique only for its
// issuer.
func (s *Server) spendAssertion(c jwt.RegisteredClaims) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.assertions.spend(c.Issuer+"\x00"+c.ID, c.ExpiresAt.Time) {
		return errors.New("the jti was used before")
	}
	return nil
}
