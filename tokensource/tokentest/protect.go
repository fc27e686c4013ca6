package tokentest

import (
	"net/http"
	"strings"
)

// Protect returns a handler that calls h for requests with a good access
// token in the Authorization header. Others it answers 401 with the challenge
// of RFC 6750 section 3: error="invalid_token", or no error for a request
// without a token. It may serve anywhere, not only in this server.
func (s *Server) Protect(h http.Handler) http.Handler {
	return s.protect(h, func(w http.ResponseWriter, token string) {
		challenge := `Bearer realm="tokentest"`
		if token != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
	})
}

// ProtectForbidden is as [Server.Protect], but answers 403 with an empty body
// and no challenge, as some front ends do for a token that has expired.
func (s *Server) ProtectForbidden(h http.Handler) http.Handler {
	return s.protect(h, func(w http.ResponseWriter, _ string) {
		w.WriteHeader(http.StatusForbidden)
	})
}

func (s *Server) protect(h http.Handler, refuse func(http.ResponseWriter, string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := bearer(r)
		good := s.Check(token) == nil
		s.countAPI(good)
		if !good {
			refuse(w, token)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) countAPI(good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.APIRequests++
	if !good {
		s.counts.Refused++
	}
}

// bearer returns the token that a request carries, or the empty string.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}
