package tokensource

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/tokentripper/tokentripper/internal/lineage"
)

// Set saves the token of a login, whatever the Store holds, and thereby passes it to
// all processes. It waits for the lock until ctx ends, and then takes at most 15 s. It
// returns nil when this login, or a later login or logout, is saved. After an error the
// next call of Token saves the login, unless there has been another login or logout
// since. If only the clocks can tell, another one within 10 s counts as later.
//
// If token is not a login's, or its text is not UTF-8, Set returns an error and changes
// nothing.
func (s *Stored) Set(ctx context.Context, token *Token) error {
	kept, err := token.storable()
	if err != nil {
		return err
	}
	return s.begin(ctx, kept.atLogin(time.Now()))
}

// Forget saves that the user has logged out. No process obtains a token until Set in
// any process. An access token in use elsewhere still works until it expires or a
// server refuses it. Forget waits, returns and fails as Set does.
func (s *Stored) Forget(ctx context.Context) error { return s.begin(ctx, nil) }

// begin makes a login with this token the newest, or a logout if token is nil, and
// saves it.
func (s *Stored) begin(ctx context.Context, token *Token) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	s.put(token)
	defer s.logins.Add(-1)
	return s.retry(ctx, func() error { return s.flush(ctx, key, saveTime) })
}

// put makes a login or a logout the newest. Its generation is a time, far above the
// count of exchanges: a process that knows more than the Store, because the Store was
// emptied, must not take the login for an old record.
func (s *Stored) put(token *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := known{token: token}
	next.Generation = max(s.newest.Generation+1, uint64(max(0, time.Now().UnixMilli())))
	next.Login, next.Ended = rand.Text(), token == nil
	next.Outcome, next.Begins, next.Over = lineage.Untried, true, s.newest.Login
	if s.newest.Begins { // which is not saved
		next.Over = s.newest.Over
	}
	s.newest = next
	s.logins.Add(1)
}

// flush gets the lock for life at most, and settles.
func (s *Stored) flush(ctx context.Context, key string, life time.Duration) error {
	return s.lock(ctx, key, life, func(t turn) error {
		_, err := s.settle(t)
		return err
	})
}

// Replace saves next, which a server has sent along with an answer to old, if old is
// still the newest; see [Cache.Replace]. It takes at most 5 s. It does not wait for the
// lock: if another caller holds it, the next call of Token saves next, unless there is
// a newer token. While the store may have lost a newer token, Replace does not save a
// token that has the refresh token of old.
func (s *Stored) Replace(ctx context.Context, old, next *Token) error {
	kept, err := next.storable()
	if err != nil {
		return err
	}
	key, err := s.key()
	if err != nil {
		return err
	}
	if !s.replace(old, *kept.withLifetime(time.Now())) {
		return nil
	}
	err = s.flush(ctx, key, storeTime)
	if errors.Is(err, ErrLocked) {
		return nil
	}
	return err
}

// replace makes next the newest instead of old. A pending token is replaced under its
// own generation, because another process may have counted on from the same record.
func (s *Stored) replace(old *Token, next Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.newest
	if !k.token.same(old) {
		return false
	}
	if next.RefreshToken == "" {
		next.RefreshToken = k.token.RefreshToken
	}
	same := next.keepsRefreshToken(k.token)
	if same && k.Doubtful(time.Now().UnixMilli()) { // old may not be the newest
		return false
	}
	if k.Outcome == lineage.Saved || k.Begins {
		k.Generation++
		k.Spent = same
	} else {
		k.Spent = k.Spent && same
	}
	if k.Outcome == lineage.Saved {
		k.Outcome = lineage.Untried
	}
	k.token = &next
	return true
}
