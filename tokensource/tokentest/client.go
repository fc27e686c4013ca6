package tokentest

import (
	"net/http"
	"net/url"
)

// A clientKind tells whether the client has proved who it is.
type clientKind int

const (
	public clientKind = iota
	confidential
)

// authenticate finds out who asks, as RFC 6749 section 2.3 says. The reply is
// nil for a client that may ask.
func (s *Server) authenticate(r *http.Request, form url.Values) (clientKind, *reply) {
	basic := r.Header.Get("Authorization") != ""
	secret := form.Get("client_secret") != ""
	assertion := form.Has("client_assertion") || form.Has("client_assertion_type")
	switch {
	case basic && secret, basic && assertion, secret && assertion:
		return public, &twoMethods
	case basic:
		return s.authenticateBasic(r, form.Get("client_id"))
	case assertion:
		return s.authenticateAssertion(form)
	}
	return s.authenticateForm(form)
}

// authenticateForm also takes a client that does not say who it is, for the one
// grant of which RFC 7523 section 3.1 allows it.
func (s *Server) authenticateForm(form url.Values) (clientKind, *reply) {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	switch {
	case id == "" && secret == "" && form.Get("grant_type") == grantTypeJWTBearer:
		return public, nil
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
	invalidClient = *refuseClient("unknown client, or wrong secret")
)

func refuseClient(description string) *reply {
	return &reply{
		status:    http.StatusUnauthorized,
		challenge: `Basic realm="tokentest"`,
		body:      errorAnswer{"invalid_client", description},
	}
}
