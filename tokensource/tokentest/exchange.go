package tokentest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

const (
	grantTypeExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken   = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT           = "urn:ietf:params:oauth:token-type:jwt"
)

// grantExchange implements the grant of RFC 8693.
func (s *Server) grantExchange(ask tokenRequest) reply {
	if ask.client == public {
		return oauthError(http.StatusBadRequest, "unauthorized_client", "this grant needs a client that authenticates")
	}
	requested := cmp.Or(ask.form.Get("requested_token_type"), typeAccessToken)
	if !isAccessTokenType(requested) {
		return oauthError(http.StatusBadRequest, "invalid_request", "requested_token_type is not access_token or jwt")
	}
	g, err := s.parties(ask.form)
	if err != nil {
		return oauthError(http.StatusBadRequest, "invalid_request", err.Error())
	}
	g.key = ask.key
	answer := s.answer(s.grantAlone(g))
	answer.IssuedTokenType = requested
	return reply{status: http.StatusOK, body: answer}
}

// parties returns the subject and the actor of an exchange.
func (s *Server) parties(form url.Values) (grant, error) {
	subject, err := s.party(form, "subject_token")
	if err != nil || form.Get("actor_token") == "" && form.Get("actor_token_type") == "" {
		return grant{subject: subject}, err
	}
	actor, err := s.party(form, "actor_token")
	return grant{subject: subject, actor: actor}, err
}

func (s *Server) party(form url.Values, parameter string) (string, error) {
	token := form.Get(parameter)
	if token == "" {
		return "", errors.New("no " + parameter)
	}
	if !isAccessTokenType(form.Get(parameter + "_type")) {
		return "", errors.New(parameter + "_type is not access_token or jwt")
	}
	subject, _, err := s.Subject(token)
	if err != nil {
		return "", fmt.Errorf("%s: %w", parameter, err)
	}
	return subject, nil
}

func isAccessTokenType(name string) bool { return name == typeAccessToken || name == typeJWT }
