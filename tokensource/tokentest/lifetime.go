package tokentest

import "time"

// SetLifetime sets how long tokens live that are issued from now on. The
// default is one hour for access tokens, and no end for refresh tokens.
//
// An access token with a lifetime of zero or less has expired when it is
// issued. A refresh token has when its lifetime is less than zero; zero means
// no end. The answers give the access token's lifetime in whole seconds,
// rounded down, and leave it out when that is zero; the server itself goes by
// the exact time.
func (s *Server) SetLifetime(access, refresh time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessLifetime, s.ledger.refreshLifetime = access, refresh
}

// SetRefreshEndsAccess sets whether a refresh ends the access tokens that the
// same family got before. By default it does not.
func (s *Server) SetRefreshEndsAccess(ends bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.refreshEndsAccess = ends
}

// RevokeAccess ends all access tokens issued so far. Refresh tokens live on.
func (s *Server) RevokeAccess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessEpoch++
}

// RevokeAll ends all tokens issued so far.
func (s *Server) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessEpoch++
	s.ledger.refreshEpoch++
}

// ExpireRefresh ends all refresh tokens issued so far. Access tokens live on.
func (s *Server) ExpireRefresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.refreshEpoch++
}
