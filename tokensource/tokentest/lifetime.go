package tokentest

import "time"

// SetLifetime sets the lifetimes of tokens that are issued from now on. By default
// access tokens live for an hour, and refresh tokens without limit.
//
// An access token with a lifetime of zero or less has expired when it is issued. A
// refresh token has expired then if its lifetime is negative; zero means no limit. The
// answers state the access token's lifetime in whole seconds, rounded down, and leave
// out zero; the server itself uses the exact time.
func (s *Server) SetLifetime(access, refresh time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessLifetime, s.ledger.refreshLifetime = access, refresh
}

// SetRefreshEndsAccess sets whether a refresh ends the earlier access tokens of the
// same family. By default it does not.
func (s *Server) SetRefreshEndsAccess(ends bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.refreshEndsAccess = ends
}

// RevokeAccess ends all access tokens that were issued so far. Refresh tokens stay
// valid.
func (s *Server) RevokeAccess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessEpoch++
}

// RevokeAll ends all tokens that were issued so far.
func (s *Server) RevokeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.accessEpoch++
	s.ledger.refreshEpoch++
}

// ExpireRefresh ends all refresh tokens that were issued so far. Access tokens stay
// valid.
func (s *Server) ExpireRefresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.refreshEpoch++
}
