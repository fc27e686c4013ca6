package tokentest

import (
	"net/http"
	"strings"
)

// Protect returns a handler that calls h for requests with a valid access token in the
// Authorization header. It answers other requests with 401 and the challenge of RFC
// 6750 section 3: error="invalid_token", or no error for a request without a token. A
// token that is bound to a key (see [DPoP]) needs the scheme DPoP and a proof of the
// key. Without these, the challenge is that of RFC 9449 section 7.1, with the error
// use_dpop_nonce, invalid_dpop_proof or invalid_token. The handler works in any server.
func (s *Server) Protect(h http.Handler) http.Handler {
	return s.protect(h, func(w http.ResponseWriter, challenge string) {
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	})
}

// ProtectForbidden is like [Server.Protect], but answers 403 with an empty body and no
// challenge, as some front ends do for an expired token. If the server demands a nonce,
// only DPoP-Nonce shows it.
func (s *Server) ProtectForbidden(h http.Handler) http.Handler {
	return s.protect(h, func(w http.ResponseWriter, _ string) {
		w.WriteHeader(http.StatusForbidden)
	})
}

func (s *Server) protect(h http.Handler, refuse func(w http.ResponseWriter, challenge string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		challenge := s.admit(r)
		s.countAPI(challenge == "")
		setNonce(w, s.nonce(atAPI))
		if challenge != "" {
			refuse(w, challenge)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// admit returns the challenge for a request that must be refused, and "" for others.
func (s *Server) admit(r *http.Request) (challenge string) {
	scheme, token := credentials(r)
	switch {
	case token != "" && strings.EqualFold(scheme, "DPoP"):
		if refusal := s.admitDPoP(r, token); refusal != nil {
			return dpopChallenge(refusal)
		}
		return ""
	case token != "" && strings.EqualFold(scheme, "Bearer"):
		return s.admitBearer(token)
	}
	return `Bearer realm="tokentest"`
}

func (s *Server) admitBearer(token string) (challenge string) {
	c, err := s.check(token)
	switch {
	case err != nil:
		return `Bearer realm="tokentest", error="invalid_token"`
	case c.Confirmation.Key != "":
		return dpopChallenge(&errorAnswer{"invalid_token", "the token is bound to a key, and not a Bearer token"})
	}
	return ""
}

func (s *Server) countAPI(good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.APIRequests++
	if !good {
		s.counts.Refused++
	}
}

func credentials(r *http.Request) (scheme, token string) {
	scheme, token, _ = strings.Cut(r.Header.Get("Authorization"), " ")
	return scheme, strings.TrimLeft(token, " ")
}
