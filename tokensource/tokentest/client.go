package tokentest

import (
	"net/http"
	"net/url"
)

// A clientKind tells whether the client has proved that it knows the secret.
type clientKind int

const (
	public clientKind = iota
	confidential
)

// authenticate finds out who asks, as RFC 6749 section 2.3.1 says. The reply
// is nil for a client that may ask.
func (s *Server) authenticate(r *http.Request, form url.Values) (clientKind, *reply) {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if r.Header.Get("Authorization") != "" {
		if secret != "" {
			return public, &twoMethods
		}
		return s.authenticateBasic(r, id)
	}
	switch {
	case id != s.ClientID:
		return public, &invalidClient
	case secret == "":
		return public, nil
	case secret != s.ClientSecret:
		return public, &invalidClient
	}
	return confidential, nil
}

// authenticateBasic also takes the client_id of the form, which a client may
// repeat there, but not contradict.
func (s *Server) authenticateBasic(r *http.Request, formID string) (clientKind, *reply) {
	name, password, _ := r.BasicAuth()
	id, idErr := url.QueryUnescape(name)
	secret, secretErr := url.QueryUnescape(password)
	if idErr != nil || secretErr != nil || id != s.ClientID || secret != s.ClientSecret {
		return public, &invalidClient
	}
	if formID != "" && formID != id {
		return public, &twoMethods
	}
	return confidential, nil
}

var (
	twoMethods = oauthError(http.StatusBadRequest, "invalid_request",
		"the client must identify itself in one way only")
	invalidClient = reply{
		status:    http.StatusUnauthorized,
		challenge: `Basic realm="tokentest"`,
		body:      errorAnswer{"invalid_client", "unknown client, or wrong secret"},
	}
)
