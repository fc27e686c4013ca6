package tokentest

// Counts are what the server has seen since it started.
type Counts struct {
	TokenRequests int // POST requests at the token endpoints (token, login, refresh), failed ones too
	Issued        int // access tokens issued, those of lost replies too
	Rotations     int // of these, by a refresh
	Reuses        int // spent refresh tokens presented again
	APIRequests   int // requests that reached a protected handler's guard
	Refused       int // of these, without a good access token, or its proof

	NonceChallenges int // proofs without a nonce, or with a stale one, at TokenURL and the API
	ProofReuses     int // proofs with a jti that an earlier proof had, at TokenURL and the API
}

// Counts returns all counts as of one moment.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}
