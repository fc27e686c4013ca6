package tokentest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// maxRequest is far larger than any token request, and bounds the memory that a faulty
// client can take.
const maxRequest = 1 << 20

// A reply is the answer of a token endpoint, without the way in which it is sent: a
// Failure may carry out the grant and lose the reply.
type reply struct {
	status    int
	challenge string // WWW-Authenticate; empty means none
	nonce     string // DPoP-Nonce; empty means none
	body      any
}

// SetLatency makes each token request (token, login or refresh) wait before the server
// does anything. Zero, the default, means no wait. A client that leaves during the wait
// has spent no refresh token.
func (s *Server) SetLatency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency = d
}

// endpoint is the common part of the token endpoints. It reads the body before it
// waits, because net/http notices that a client is gone only after the body was read.
func (s *Server) endpoint(grant func(r *http.Request, body []byte) reply) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failure, latency := s.arrive()
		if failure != nil && failure.Reset {
			reset(w)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			oauthError(http.StatusBadRequest, "invalid_request", "the body cannot be read").send(w)
			return
		}
		wait(r.Context(), latency)
		switch {
		case failure == nil:
			grant(r, body).send(w)
		case failure.LoseReply:
			grant(r, body)
			panic(http.ErrAbortHandler)
		default:
			failure.send(w, r)
		}
	})
}

// arrive counts a request and decides whether and how it fails.
func (s *Server) arrive() (*Failure, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.TokenRequests++
	return s.nextFailure(), s.latency
}

// wait aborts the handler if ctx ends first: the client or the server is gone, and an
// answer would have no recipient.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		panic(http.ErrAbortHandler)
	}
}

func (p reply) send(w http.ResponseWriter) {
	if p.challenge != "" {
		w.Header().Set("WWW-Authenticate", p.challenge)
	}
	setNonce(w, p.nonce)
	setHeaders(w, "application/json")
	w.WriteHeader(p.status)
	json.NewEncoder(w).Encode(p.body)
}

func setNonce(w http.ResponseWriter, nonce string) {
	if nonce != "" {
		w.Header().Set("DPoP-Nonce", nonce)
	}
}

// setHeaders sets the headers that RFC 6749 section 5.1 demands of an answer with
// tokens.
func setHeaders(w http.ResponseWriter, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
}
