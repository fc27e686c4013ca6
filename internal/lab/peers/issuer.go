package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// The client that the authorization server knows. It checks no secret: that
// would be no part of what is measured.
const (
	clientID     = "client"
	clientSecret = "secret"
)

// issuer is the authorization server. It hands out access tokens by four
// protocols: RFC 6749 with the grants client_credentials, jwt-bearer and
// refresh_token, installation tokens as GitHub has them, and the token service
// of container registries, with the latter's variant for refresh tokens.
func (s *servers) issuer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.serveOAuth)
	mux.HandleFunc("POST /app/installations/{id}/access_tokens", s.serveGitHub)
	mux.HandleFunc("GET /registry", s.serveRegistry)
	mux.HandleFunc("POST /registry", s.serveOAuth)
	return mux
}

// A grant is what a token request has brought.
type grant struct {
	access, refresh string
	expiry          time.Time
}

// serveOAuth answers by RFC 6749.
func (s *servers) serveOAuth(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	if !s.ready(w, r) {
		return
	}
	g, ok := s.grant(r.PostForm.Get("refresh_token"))
	if !ok {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	reply := map[string]any{"access_token": g.access, "token_type": "Bearer", "expires_in": lifetime(g)}
	if g.refresh != "" {
		reply["refresh_token"] = g.refresh
	}
	answer(w, http.StatusOK, reply)
}

// serveGitHub answers with an installation token.
func (s *servers) serveGitHub(w http.ResponseWriter, r *http.Request) {
	if s.ready(w, r) {
		g, _ := s.grant("")
		answer(w, http.StatusCreated, map[string]any{"token": g.access, "expires_at": g.expiry.UTC()})
	}
}

// serveRegistry answers as the token service of the distribution project.
func (s *servers) serveRegistry(w http.ResponseWriter, r *http.Request) {
	if s.ready(w, r) {
		g, _ := s.grant("")
		answer(w, http.StatusOK, map[string]any{"token": g.access, "expires_in": lifetime(g)})
	}
}

func lifetime(g grant) int { return int(time.Until(g.expiry).Round(time.Second).Seconds()) }

func answer(w http.ResponseWriter, status int, reply any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(reply)
}

// ready counts a token request and waits. It reports false if there will be no token.
func (s *servers) ready(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	s.counts.TokenRequests++
	latency := s.conduct.Latency
	s.mu.Unlock()
	timer := time.NewTimer(latency)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conduct.Down {
		answer(w, http.StatusServiceUnavailable, map[string]any{"error": "temporarily_unavailable"})
	}
	return !s.conduct.Down
}

// grant makes an access token, and the next refresh token if it is given one. A
// spent one that comes again ends the login: no refresh token works any more.
func (s *servers) grant(refresh string) (g grant, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refresh != "" {
		spent, known := s.refresh[refresh]
		if spent {
			clear(s.refresh)
			clear(s.live)
		}
		if spent || !known {
			return g, false
		}
		s.refresh[refresh] = true
		g.refresh = s.login()
	}
	s.issued++
	g.access = accessToken(s.issued)
	g.expiry = time.Now().Add(s.conduct.Lifetime)
	s.live[g.access] = g.expiry
	return g, true
}

func accessToken(n int) string {
	return fmt.Sprintf("access-token-that-is-as-long-as-opaque-ones-are-%06d", n)
}

// login returns a new refresh token; s.mu is held.
func (s *servers) login() string {
	s.issued++
	token := fmt.Sprintf("refresh-token-%06d", s.issued)
	s.refresh[token] = false
	return token
}
