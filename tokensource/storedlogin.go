package tokensource

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/tokentripper/tokentripper/internal/lineage"
)

// Set saves the token of a login, whatever the Store holds, and so hands it to
// all processes. It waits for the lock until ctx ends, and then takes 15 s at most. It returns nil
// when this login, or a later login or logout, is saved. If it fails, the next call of Token
// saves the login, unless there is another login or logout since: where only the clocks can tell,
// one within 10 s of it counts as since.
//
// A token that is no login, or whose text is not UTF-8, is an error, and changes nothing.
func (s *Stored) Set(ctx context.Context, token *Token) error {
	kept, err := token.storable()
	if err != nil {
		return err
	}
	return s.begin(ctx, kept.atLogin(time.Now()))
}

// Forget saves that the user has logged out: no process obtains a token any more
// until Set, in any process. Access tokens in use elsewhere live on until they
// expire or are refused. It waits, returns and fails as Set does.
func (s *Stored) Forget(ctx context.Context) error { return s.begin(ctx, nil) }

// begin makes a login with this token the newest, or if it is nil a logout, and saves it.
func (s *Stored) begin(ctx context.Context, token *Token) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	s.put(token)
	defer s.returned()
	return s.retry(ctx, func() error { return s.flush(ctx, key, saveTime) })
}

// put makes a login or a logout the newest. Its generation is a time, far above what
// exchanges count to: a process that knows more than the Store, because that was
// emptied, must not think that it is old.
func (s *Stored) put(token *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := known{token: token}
	next.Generation = max(s.newest.Generation+1, uint64(max(0, time.Now().UnixMilli())))
	next.Login, next.Ended = rand.Text(), token == nil
	next.Outcome, next.Begins, next.Over = lineage.Untried, true, s.newest.Login
	if s.newest.Begins { // that is not saved
		next.Over = s.newest.Over
	}
	s.newest = next
	s.logins++
}

func (s *Stored) returned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins--
}

// flush gets the lock for so long, and settles.
func (s *Stored) flush(ctx context.Context, key string, life time.Duration) error {
	return s.lock(ctx, key, life, func(t turn) error {
		_, err := s.settle(t)
		return err
	})
}

// Replace saves next, which a server has sent along with an answer to old, if
// old is still the newest; see [Cache.Replace]. It takes at most 5 s, and does not
// wait if somebody else has the lock: the next call of Token saves next, unless
// there is a newer one. While the store may have lost a newer one, it saves no token with the refresh token
// of old.
func (s *Stored) Replace(ctx context.Context, old, next *Token) error {
	kept, err := next.storable()
	if err != nil {
		return err
	}
	key, err := s.key()
	if err != nil {
		return err
	}
	if !s.replace(old, kept.withLifetime(time.Now())) {
		return nil
	}
	err = s.flush(ctx, key, storeTime)
	if errors.Is(err, ErrLocked) {
		return nil
	}
	return err
}

// replace makes next the newest instead of old. A pending token is replaced under its own
// generation, because another process may have counted on from the same record.
func (s *Stored) replace(old, next *Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.newest
	if !k.token.same(old) {
		return false
	}
	if next.RefreshToken == "" {
		kept := *next
		kept.RefreshToken = k.token.RefreshToken
		next = &kept
	}
	same := next.keepsRefreshToken(k.token)
	if same && k.Doubtful(time.Now().UnixMilli()) { // old may not be the newest
		return false
	}
	switch {
	case k.Outcome == lineage.Saved || k.Begins:
		k.Generation++
		k.Spent = same
	default:
		k.Spent = k.Spent && same
	}
	if k.Outcome == lineage.Saved {
		k.Outcome = lineage.Untried
	}
	k.token = next
	return true
}
