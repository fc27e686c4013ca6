package tokensource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
	"github.com/tokentripper/tokentripper/internal/lineage"
)

// Stored shares one token of its Source among many processes. While one process obtains
// a token, the others wait for it. All processes together send a rotating refresh token
// once. Put a [Cache] over it.
//
// Stored saves a new token before the token is used. It repeats a failing save for 15 s
// while it holds the lock. A token that could not be saved is used nevertheless, and
// saved with the next call.
//
// If the store was emptied or put back to an older state, each process saves the newest
// token that it knows with its next call or its next [Stored.Look]. No refresh token is
// spent until 45 s after the first process has done so. By then all processes that send
// requests and reach the store have looked. Each further loss prolongs this. Meanwhile
// Token returns the token if it is good, and otherwise a [StoreError].
//
// The user must log in again if a process is killed after the server has ended its
// refresh token and before the next one is saved. After a loss the same happens if no
// process that knows the newest token sends a request in those 45 s, or if a process
// that does not know that token cannot see the loss: it has just started, or the store
// was put back to the state that it knows.
//
// Expiry is stored as a time of day, so the clocks of the processes should agree to
// within seconds. If the wall clock is set back after the Cache got the token, the
// Cache notices. An Expiry or RefreshAt that JSON cannot represent, such as a time of
// milliseconds taken for seconds, counts as unknown. A token whose text is not UTF-8 is
// an error.
//
// Stored is safe for concurrent use. You must not copy it after its first use.
type Stored struct {
	// Source obtains the tokens.
	Source Source

	// Store keeps the tokens.
	Store Store

	// Key is the name of the token in the Store: printable ASCII, 1 to 200 bytes. Use a
	// key for each user or tenant. For this package's grants, Key is extended with a
	// hash of the server, the client and the initial refresh token, so that a new
	// initial refresh token replaces the stored token.
	Key string

	// Timeout bounds a call of Source together with the wait for the lock. Zero means
	// 10 s. The lock lasts 15 s longer, for the save.
	Timeout time.Duration

	// Unshared lets the process obtain its own tokens while the Store fails or does not
	// answer within 5 s. Use it for client credentials and the like. A refresh token is
	// never spent without the lock if it is in a Token, or if Source is a RefreshToken
	// or has a method Spends() bool that returns true.
	Unshared bool

	mu     sync.Mutex   // guards what follows
	newest known        // stored or pending
	logins atomic.Int32 // calls of Set and Forget that have not returned
}

// Bounds of Stored.
const (
	maxKey       = 200
	storeTime    = 5 * time.Second // after which the store counts as unavailable
	saveTime     = 15 * time.Second
	unsavedPause = time.Second
)

// Token returns the stored token if it is good and differs from old. Otherwise it locks
// the key, looks again, and if necessary asks Source with the newest token as old.
//
// The error is a [StoreError], Source's, or ctx's while another process or caller holds
// the lock. Once Token holds the lock, it ends within Timeout and 15 s, whatever
// becomes of ctx. From the moment when the refresh token is refused in any process
// until Set in any process, the error wraps [ErrReauthenticate].
func (s *Stored) Token(ctx context.Context, old *Token) (*Token, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	var token *Token
	var tried time.Time // to get the lock
	err = s.retry(ctx, func() (err error) {
		token, err = s.look(ctx, key, old, &tried)
		return err
	})
	failed, ofSource := err.(asked)
	failure, ofStore := errors.AsType[*StoreError](err)
	switch {
	case ofSource:
		return nil, failed.error
	case ofStore && failure.Op != opDecode:
		return s.without(ctx, old, err)
	}
	return token, err
}

// asked is an error of Source, which must not be taken for an error of Store.
type asked struct{ error }

// errEnded is the error in all processes after one has saved that a login is needed.
var errEnded = fmt.Errorf("%w: the stored token was refused or forgotten", ErrReauthenticate)

// look returns the stored token if it will do; otherwise it locks the key and obtains a
// token. While another process holds the lock, it tries to get the lock only once a
// second.
func (s *Stored) look(ctx context.Context, key string, old *Token, tried *time.Time) (*Token, error) {
	newest, err := s.load(ctx, key)
	if err != nil {
		return nil, err
	}
	if token, err := newest.answer(old); token != nil || err != nil {
		return token, err
	}
	now := time.Now()
	if !clock.Passed(now, tried.Add(longestWait)) {
		return nil, ErrLocked
	}
	*tried = now
	var token *Token
	err = s.lock(ctx, key, s.timeout()+saveTime, func(t turn) (err error) {
		token, err = s.obtain(t, old)
		return err
	})
	return token, err
}

// load learns what the Store holds, and returns the newest record.
func (s *Stored) load(ctx context.Context, key string) (known, error) {
	patience, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	value, err := s.Store.Load(patience, key)
	switch {
	case ctx.Err() != nil:
		return known{}, ctx.Err()
	case err != nil:
		return known{}, storeError(opLoad, key, err)
	}
	return s.learn(key, value, false)
}

// learn takes the record from the Store, unless the one known here is newer, and
// returns the newest. Under the lock it prepares a newer one for saving.
func (s *Stored) learn(key string, value []byte, locked bool) (known, error) {
	var stored record
	if value != nil {
		if err := stored.decode(value); err != nil {
			return known{}, &StoreError{opDecode, key, err}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest.Awaited = s.logins.Load() > 0
	if s.newest.Newest(stored.Record) == 0 {
		s.newest = saved(stored)
		return s.newest, nil
	}
	now := time.Now().UnixMilli()
	if s.newest.Misses(stored.Record) { // the Store was emptied or put back
		s.newest.Known = s.newest.SavedAgain(now)
	}
	if locked {
		s.newest.Known = s.newest.Above(stored.Record, now)
	}
	return s.newest, nil
}

// Look reads what other processes have made of the token. If this process knows a newer
// one, for example after the store was emptied, Look saves it. It does not ask Source.
// A [Cache] over Stored calls Look every 20 to 30 s while requests are sent, and again
// within 3 s if it fails.
//
// A Source of yours that wraps a Stored needs a Look that calls this one.
//
// Look takes at most 20 s. The error is a [StoreError] or ctx's. After an error the
// next call saves the token.
func (s *Stored) Look(ctx context.Context) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	newest, err := s.load(ctx, key)
	if newest.Outcome != lineage.Saved { // never after an error
		err = s.flush(ctx, key, saveTime)
	}
	return err
}

// without answers while the Store is unavailable with error err.
func (s *Stored) without(ctx context.Context, old *Token, err error) (*Token, error) {
	s.mu.Lock()
	last := s.newest
	s.mu.Unlock()
	switch {
	case last.token.good(time.Now()) && !last.token.same(old):
		return last.token.soon(), nil
	case last.Ended:
		return nil, fmt.Errorf("%w, and %w", errEnded, err)
	case !s.Unshared || s.spends(last.token) || s.spends(old):
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	token, err := s.ask(ctx, old)
	if err != nil {
		return nil, err
	}
	s.keep(last.follower(token))
	return token, nil
}

// ask asks Source and checks the token before any use.
func (s *Stored) ask(ctx context.Context, old *Token) (*Token, error) {
	began := time.Now()
	token, err := s.Source.Token(ctx, old)
	if err != nil {
		return nil, sound(err)
	}
	if err := token.check(); err != nil {
		return nil, err
	}
	if token, err = token.storable(); err != nil {
		return nil, err
	}
	return token.withLifetime(began), nil
}

// spends reports whether asking Source with base as old spends a refresh token.
func (s *Stored) spends(base *Token) bool {
	if source, ok := s.Source.(spender); ok && source.Spends() {
		return true
	}
	if base != nil {
		return base.RefreshToken != ""
	}
	r, ok := s.Source.(*RefreshToken)
	return ok && r.RefreshToken != ""
}

// keep makes k the newest, unless there is a later login, logout or token. k also
// replaces a token that Replace has made from the same record meanwhile, if that token
// still has the refresh token that k has exchanged.
func (s *Stored) keep(k known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.Generation > s.newest.Generation || k.Generation == s.newest.Generation && s.newest.Spent {
		s.newest = k
	}
}

// Pending reports whether a token, a login or a logout is not saved yet, and would be
// lost with this Stored. The next call of Token saves it.
func (s *Stored) Pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest.Outcome != lineage.Saved
}

// A fingerprinter is a Source whose configuration identifies whose tokens it obtains.
type fingerprinter interface{ fingerprint() []string }

func (s *Stored) key() (string, error) {
	switch {
	case s.Source == nil:
		return "", errors.New("tokensource: Stored.Source is nil")
	case s.Store == nil:
		return "", errors.New("tokensource: Stored.Store is nil")
	case len(s.Key) == 0 || len(s.Key) > maxKey || strings.ContainsFunc(s.Key, invisible):
		return "", fmt.Errorf("tokensource: Stored.Key must be 1 to %d bytes of printable ASCII", maxKey)
	}
	f, ok := s.Source.(fingerprinter)
	if !ok {
		return s.Key, nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", f.fingerprint()))
	return s.Key + "." + hex.EncodeToString(sum[:8]), nil
}

func (s *Stored) timeout() time.Duration { return cmp.Or(max(0, s.Timeout), 10*time.Second) }

// Format writes the key and the types of Source and Store for every verb. It shows no
// secret and reads nothing that changes concurrently.
func (s *Stored) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, "%T in %T as %q", s.Source, s.Store, s.Key)
}

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (s *Stored) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }
