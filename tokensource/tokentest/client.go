package tokentest

import (
	"net/http"
	"net/url"
)

// A clientKind says whether the client has authenticated.
type clientKind int

const (
	public clientKind = iota
	confidential
)

// authenticate identifies the client, by RFC 6749 section 2.3. The reply is nil for a
// client that may go on.
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

// authenticateForm also accepts a client without an id, for the one grant for which RFC
// 7523 section 3.1 allows this.
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

// authenticateBasic also reads client_id of the form. A client may repeat its id there,
// but must not contradict it.
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
