package tokentest

import (
	"fmt"
	"net/http"
	"time"
)

// A DPoP is what the server demands of clients that prove possession of a key (RFC
// 9449). The zero DPoP demands nothing: a token request with a proof gets a token of
// type DPoP that is bound to the proof's key, and a request without a proof gets a
// Bearer token. Whatever the fields are, the server refuses a wrong proof, and accepts
// a bound token only with a proof of its key.
type DPoP struct {
	// Required makes [Server.TokenURL] refuse requests without a proof. The API still
	// accepts Bearer tokens from elsewhere.
	Required bool

	// Nonces demands a nonce of the server in each proof (RFC 9449 sections 8 and 9).
	// Each answer of TokenURL, and each of the API, then has a new one in DPoP-Nonce. A
	// nonce of one is not valid at the other. A nonce stays valid until
	// [Server.ExpireNonces].
	Nonces bool
}

// SetDPoP changes what the server demands from now on.
func (s *Server) SetDPoP(d DPoP) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dpop = d
}

// proveToken returns the thumbprint of the key that a request's tokens are bound to, or
// "" without a proof.
func (s *Server) proveToken(r *http.Request) (string, *errorAnswer) {
	if len(r.Header.Values("DPoP")) == 0 && !s.proofRequired() {
		return "", nil
	}
	return s.prove(r, atTokenURL, "")
}

func (s *Server) proofRequired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dpop.Required
}

// admitDPoP checks the proof before the token: a client with a stale nonce and a dead
// token learns of the nonce first.
func (s *Server) admitDPoP(r *http.Request, token string) *errorAnswer {
	key, refusal := s.prove(r, atAPI, token)
	if refusal != nil {
		return refusal
	}
	c, err := s.check(token)
	switch {
	case err != nil:
		return &errorAnswer{"invalid_token", err.Error()}
	case c.Confirmation.Key != key:
		return &errorAnswer{"invalid_token", "the token is not bound to the key of the proof"}
	}
	return nil
}

// dpopChallenge returns the challenge of RFC 9449 section 7.1.
func dpopChallenge(e *errorAnswer) string {
	return fmt.Sprintf(`DPoP error="%s", error_description="%s", algs="ES256 EdDSA"`, e.Error, e.Description)
}

// prove checks the proof of a request by RFC 9449 section 4.3, and returns the
// thumbprint of its key. It spends the jti before it checks the rest, so that a proof
// that is used twice is counted whatever else is wrong with it. The token is empty if
// there is none to hash.
func (s *Server) prove(r *http.Request, p place, token string) (string, *errorAnswer) {
	proof, err := parseProof(r)
	if err == nil {
		err = s.spendProof(proof)
	}
	if err == nil {
		err = proof.fits(r, token)
	}
	if err != nil {
		return "", &errorAnswer{"invalid_dpop_proof", err.Error()}
	}
	if !s.nonceGood(p, proof.Nonce) {
		return "", &errorAnswer{"use_dpop_nonce", "the proof needs a nonce of this server that is not stale"}
	}
	return proof.key, nil
}

func (s *Server) spendProof(p proof) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.proofs.spend(p.ID, p.IssuedAt.Add(maxProofAge+time.Second)) {
		s.counts.ProofReuses++
		return errProofReused
	}
	return nil
}
