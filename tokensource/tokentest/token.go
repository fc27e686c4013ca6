package tokentest

import (
	"mime"
	"net/http"
	"net/url"
)

// TokenURL is the token endpoint of RFC 6749: a POST of a form, with the grant
// refresh_token or client_credentials. The client authenticates by Basic or by
// client_secret in the form; without a secret, with client_id alone, it may
// only refresh. Scopes are accepted, and mean nothing.
func (s *Server) TokenURL() string { return s.URL + "/token" }

type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
}

type errorAnswer struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func oauthError(status int, code, description string) reply {
	return reply{status: status, body: errorAnswer{code, description}}
}

func (s *Server) token(r *http.Request, body []byte) reply {
	form, ok := parseForm(r, body)
	if !ok {
		return oauthError(http.StatusBadRequest, "invalid_request", "not a form, or a parameter is given twice")
	}
	client, refusal := s.authenticate(r, form)
	if refusal != nil {
		return *refusal
	}
	switch form.Get("grant_type") {
	case "refresh_token":
		return s.grantRefresh(form.Get("refresh_token"))
	case "client_credentials":
		return s.grantCredentials(client)
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "no grant_type")
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "")
}

func (s *Server) grantRefresh(refresh string) reply {
	if refresh == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "no refresh_token")
	}
	g, err := s.rotate(refresh)
	if err != nil {
		return oauthError(http.StatusBadRequest, "invalid_grant", err.Error())
	}
	return s.tokenReply(g)
}

func (s *Server) grantCredentials(client clientKind) reply {
	if client == public {
		return oauthError(http.StatusBadRequest, "unauthorized_client", "this grant needs the client's secret")
	}
	return s.tokenReply(s.grantClient())
}

func (s *Server) tokenReply(g grant) reply {
	return reply{status: http.StatusOK, body: tokenAnswer{
		AccessToken:  s.sign(g),
		TokenType:    "Bearer",
		ExpiresIn:    seconds(g.lifetime),
		RefreshToken: g.refresh,
	}}
}

// parseForm reports false also for a parameter that is given twice, which
// RFC 6749 section 3.2 forbids.
func parseForm(r *http.Request, body []byte) (url.Values, bool) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType != "application/x-www-form-urlencoded" {
		return nil, false
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, false
	}
	for _, values := range form {
		if len(values) > 1 {
			return nil, false
		}
	}
	return form, true
}
