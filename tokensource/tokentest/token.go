package tokentest

import (
	"mime"
	"net/http"
	"net/url"
)

// TokenURL is the URL of the token endpoint (RFC 6749). It takes a POST of a form, with
// one of these grants:
//
//   - refresh_token;
//   - client_credentials, for a client that authenticates;
//   - urn:ietf:params:oauth:grant-type:jwt-bearer (RFC 7523 section 2.1), with an
//     assertion that a key of [Server.TrustKey] has signed. It returns an access token
//     of the assertion's sub. The client need not identify itself;
//   - urn:ietf:params:oauth:grant-type:token-exchange (RFC 8693), for a client that
//     authenticates and has one or two access tokens of this server: see
//     [Server.Subject].
//
// The client authenticates by Basic, by client_secret in the form, or by a
// client_assertion (RFC 7523 section 2.2) that a key of TrustKey has signed. Otherwise
// it sends only client_id. Scopes, resources and audiences are accepted without effect.
//
// An assertion has iss and sub, the aud TokenURL or URL, an exp, and optionally an iat
// and nbf at most 20 seconds in the future. A client's assertion has its ClientID as
// iss and sub. A jti is valid once, and a client's assertion must have one. It is spent
// even if a later check, of DPoP or the grant, fails.
//
// [DPoP] describes how tokens are bound to a key.
func (s *Server) TokenURL() string { return s.URL + "/token" }

type tokenAnswer struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in,omitempty"`
	RefreshToken    string `json:"refresh_token,omitempty"`
}

type errorAnswer struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func oauthError(status int, code, description string) reply {
	return reply{status: status, body: errorAnswer{code, description}}
}

// A tokenRequest is the input of a grant, after the checks that all grants share.
type tokenRequest struct {
	form   url.Values
	client clientKind
	key    string // thumbprint of the DPoP proof's key; empty: no proof
}

func (s *Server) token(r *http.Request, body []byte) reply {
	p := s.answerToken(r, body)
	p.nonce = s.nonce(atTokenURL)
	return p
}

// answerToken checks the proof before the grant, because a client must be able to
// repeat the grant once it has the nonce.
func (s *Server) answerToken(r *http.Request, body []byte) reply {
	form, ok := parseForm(r, body)
	if !ok {
		return oauthError(http.StatusBadRequest, "invalid_request", "not a form, or a parameter is given twice")
	}
	client, refusal := s.authenticate(r, form)
	if refusal != nil {
		return *refusal
	}
	key, wrong := s.proveToken(r)
	if wrong != nil {
		return reply{status: http.StatusBadRequest, body: wrong}
	}
	return s.grant(tokenRequest{form, client, key})
}

func (s *Server) grant(ask tokenRequest) reply {
	switch ask.form.Get("grant_type") {
	case "refresh_token":
		return s.grantRefresh(ask)
	case "client_credentials":
		return s.grantCredentials(ask)
	case grantTypeJWTBearer:
		return s.grantAssertion(ask)
	case grantTypeExchange:
		return s.grantExchange(ask)
	case "":
		return oauthError(http.StatusBadRequest, "invalid_request", "no grant_type")
	}
	return oauthError(http.StatusBadRequest, "unsupported_grant_type", "")
}

func (s *Server) grantRefresh(ask tokenRequest) reply {
	refresh := ask.form.Get("refresh_token")
	if refresh == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "no refresh_token")
	}
	g, err := s.rotate(refresh, ask.key, ask.client)
	if err != nil {
		return oauthError(http.StatusBadRequest, "invalid_grant", err.Error())
	}
	return s.tokenReply(g)
}

// grantCredentials issues no refresh token, as RFC 6749 section 4.4.3 recommends.
func (s *Server) grantCredentials(ask tokenRequest) reply {
	if ask.client == public {
		return oauthError(http.StatusBadRequest, "unauthorized_client", "this grant needs a client that authenticates")
	}
	return s.tokenReply(s.grantAlone(grant{subject: s.ClientID, key: ask.key}))
}

func (s *Server) tokenReply(g grant) reply {
	return reply{status: http.StatusOK, body: s.answer(g)}
}

func (s *Server) answer(g grant) tokenAnswer {
	tokenType := "Bearer"
	if g.key != "" {
		tokenType = "DPoP"
	}
	return tokenAnswer{
		AccessToken:  s.sign(g),
		TokenType:    tokenType,
		ExpiresIn:    seconds(g.lifetime),
		RefreshToken: g.refresh,
	}
}

// parseForm also returns false for a repeated parameter, which RFC 6749 section 3.2
// forbids. RFC 8693 section 2.1 allows it for two parameters.
func parseForm(r *http.Request, body []byte) (url.Values, bool) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType != "application/x-www-form-urlencoded" {
		return nil, false
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, false
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" && name != "audience" {
			return nil, false
		}
	}
	return form, true
}
