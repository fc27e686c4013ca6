package tokentest

import (
	"encoding/json"
	"net/http"
)

// LoginURL is the URL of the login. It takes a POST of the JSON {"username": …,
// "password": …} and answers with {"accessToken": …, "refreshToken": …, "expiresIn":
// seconds}. Wrong credentials get a 401 with {"message": …}.
func (s *Server) LoginURL() string { return s.URL + "/login" }

// RefreshURL takes a POST of the JSON {"refreshToken": …} and answers as LoginURL does.
// A dead refresh token gets a 403 with {"message": …}. So does a refresh token that is
// bound to a key (see [DPoP]), because proofs do not work here.
func (s *Server) RefreshURL() string { return s.URL + "/refresh" }

type loginAnswer struct {
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken"`
	ExpiresIn    int64  `json:"expiresIn,omitempty"`
}

type messageAnswer struct {
	Message string `json:"message"`
}

func message(status int, text string) reply {
	return reply{status: status, body: messageAnswer{text}}
}

func (s *Server) login(_ *http.Request, body []byte) reply {
	var ask struct{ Username, Password string }
	if json.Unmarshal(body, &ask) != nil {
		return message(http.StatusBadRequest, "the body is not the JSON of a login")
	}
	if ask.Username != s.Username || ask.Password != s.Password {
		return message(http.StatusUnauthorized, "wrong username or password")
	}
	return s.loginReply(s.grantUser())
}

func (s *Server) refresh(_ *http.Request, body []byte) reply {
	var ask struct{ RefreshToken string }
	if json.Unmarshal(body, &ask) != nil || ask.RefreshToken == "" {
		return message(http.StatusBadRequest, "the body is not the JSON of a refresh")
	}
	g, err := s.rotate(ask.RefreshToken, "", public)
	if err != nil {
		return message(http.StatusForbidden, err.Error())
	}
	return s.loginReply(g)
}

func (s *Server) loginReply(g grant) reply {
	return reply{status: http.StatusOK, body: loginAnswer{
		AccessToken:  s.sign(g),
		RefreshToken: g.refresh,
		ExpiresIn:    seconds(g.lifetime),
	}}
}
