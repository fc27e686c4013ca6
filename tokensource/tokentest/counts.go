package tokentest

// Counts are the numbers of events since the server started.
type Counts struct {
	TokenRequests int // POST requests at the token endpoints (token, login, refresh), including failed ones
	Issued        int // access tokens issued, including those in lost replies
	Rotations     int // how many of these came from a refresh
	Reuses        int // spent refresh tokens that were sent again
	APIRequests   int // requests that reached a protected handler's guard
	Refused       int // how many of these had no valid access token, or no valid proof for it

	NonceChallenges int // proofs without a nonce or with a stale one, at TokenURL and the API
	ProofReuses     int // proofs with the jti of an earlier proof, at TokenURL and the API
}

// Counts returns all counts at one moment.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}
