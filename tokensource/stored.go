package tokensource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Stored shares one token of its Source among many processes: while one obtains
// a token the others wait for it, and a refresh token that rotates is sent once
// by all of them together. Put a [Cache] over it.
//
// A new token is saved before it is used. A save that fails is tried again for 15 s,
// while the lock is held; a token that could not be saved is used all the same,
// and saved with the next call. Where the store was emptied or is behind, the
// newest token that this process knows goes on.
//
// No store can help a process that is killed after the server has ended its
// refresh token and before the next one is saved: the user must log in again.
//
// Expiry is kept as a time of day, so the clocks of the processes should agree
// to within seconds.
//
// Stored is safe for concurrent use, and must not be copied after its first use.
type Stored struct {
	// Source obtains the tokens.
	Source Source

	// Store keeps them.
	Store Store

	// Key names the token in the Store: printable ASCII, 1 to 200 bytes. Each
	// user's or tenant's token has its own. To the keys of this package's grants
	// a hash of the server, the client and the initial refresh token is added, so that a new
	// initial refresh token replaces whatever was stored.
	Key string

	// Timeout bounds a call of Source, together with the time that it took to get
	// the lock. Zero means 10 s. The lock lives 15 s longer, for the save.
	Timeout time.Duration

	// Unshared lets the process obtain tokens of its own while the Store is
	// away, or does not answer within 5 s: for client credentials and the like. A
	// refresh token is never spent without the lock, if it is in a Token or is
	// that of a RefreshToken: one that a Func keeps to itself is not seen.
	Unshared bool

	mu      sync.Mutex // guards what follows
	last    record     // the newest known here, stored or not
	unsaved bool       // last is yet to be saved,
	tried   bool       // or it is, and only the answer was lost
	lost    record     // what was last and untried when the Store had a later one
}

// Bounds of Stored.
const (
	maxKey       = 200
	storeTime    = 5 * time.Second // for the store to answer, or it is away
	saveTime     = 15 * time.Second
	firstWait    = 25 * time.Millisecond
	longestWait  = time.Second
	unsavedPause = time.Second
)

// Token returns the stored token if it is good and another one than old.
// Otherwise it locks the key, looks again, and if need be asks Source with the
// newest token as old.
//
// The error is a [StoreError], Source's, or ctx's while somebody else has the
// lock. Once it has the lock itself, Token ends within Timeout and 15 s, not
// with ctx. It wraps [ErrReauthenticate] from the moment that the refresh token
// was refused, in any process, until Set, in any process.
func (s *Stored) Token(ctx context.Context, old *Token) (*Token, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	var token *Token
	err = s.retry(ctx, func() (err error) {
		token, err = s.look(ctx, key, old)
		return err
	})
	if failed, ok := err.(asked); ok {
		return nil, failed.error
	}
	if failure, ok := errors.AsType[*StoreError](err); ok && failure.Op != opDecode {
		return s.without(ctx, old, err)
	}
	return token, err
}

// asked is an error of Source, which may look like one of Store, but is not.
type asked struct{ error }

// look returns what the Store has, if that will do, or locks it and obtains a token.
func (s *Stored) look(ctx context.Context, key string, old *Token) (*Token, error) {
	patience, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	value, err := s.Store.Load(patience, key)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, storeError(opLoad, key, err)
	}
	if err := s.learn(key, value); err != nil {
		return nil, err
	}
	token, _, err := s.known(old)
	if token != nil || err != nil && err != errUnsaved {
		return token, err
	}
	err = s.locked(ctx, key, s.timeout()+saveTime, func(lock context.Context, save func([]byte) error) error {
		t, base, err := s.known(old) // another may have been faster
		if t == nil && err == nil {
			t, err = s.exchange(lock, key, base, save)
		}
		token = t
		return err
	})
	return token, err
}

// locked calls fn with the lock of key, once nothing is unsaved. The context
// that fn gets lives as long as the lock does, whatever becomes of ctx.
func (s *Stored) locked(ctx context.Context, key string, life time.Duration, fn func(context.Context, func([]byte) error) error) error {
	lock, cancel := context.WithTimeout(context.WithoutCancel(ctx), life)
	defer cancel()
	patience, done := context.WithTimeout(ctx, storeTime)
	defer done()
	stop := context.AfterFunc(patience, cancel)
	defer stop()
	ran, result := false, error(nil)
	err := s.Store.Update(lock, key, func(value []byte, save func([]byte) error) error {
		if !stop() {
			return patience.Err()
		}
		ran = true
		if result = s.learn(key, value); result == nil {
			result = s.flush(lock, key, save)
		}
		if result == nil {
			result = fn(lock, save)
		}
		return result
	})
	switch {
	case ran: // what became of the lock afterwards does not matter
		return result
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrLocked):
		return err
	}
	return storeError(opUpdate, key, cmp.Or(err, errNotCalled))
}

var (
	errNotCalled = errors.New("the store did not call fn")
	errNoTime    = errors.New("the store was too slow, no time is left for an exchange")
	errUnsaved   = fmt.Errorf("tokensource: a token is yet to be saved: %w", ErrLocked)
)

// exchange asks Source with the newest token, and saves what comes: also that a
// refresh token is dead, which the others need not find out. The end of the
// lock's life is for the save.
func (s *Stored) exchange(lock context.Context, key string, base record, save func([]byte) error) (*Token, error) {
	end, _ := lock.Deadline()
	call, cancel := context.WithDeadline(lock, end.Add(-saveTime))
	defer cancel()
	if call.Err() != nil {
		return nil, &StoreError{opUpdate, key, errNoTime}
	}
	began := time.Now()
	token, err := s.Source.Token(call, base.token)
	if err == nil {
		err = token.check()
	}
	next := record{gen: base.gen + 1}
	switch {
	case err == nil:
		next.token = token.withLifetime(began)
	case needsLogin(err) && (s.spends(base) || base.token != nil && !base.token.good(time.Now())):
		next.reauthenticate = true
	default:
		return nil, asked{err}
	}
	s.keep(next)
	failed := s.save(lock, key, next, save)
	switch {
	case err != nil:
		return nil, asked{err}
	case failed != nil:
		return next.token.soon(), nil
	}
	return next.token, nil
}

// keep makes r the newest, unless somebody has logged in or out meanwhile.
func (s *Stored) keep(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gen > s.last.gen {
		s.put(r)
	}
}

// flush saves what is unsaved.
func (s *Stored) flush(lock context.Context, key string, save func([]byte) error) error {
	s.mu.Lock()
	last, unsaved := s.last, s.unsaved
	s.mu.Unlock()
	if !unsaved {
		return nil
	}
	return s.save(lock, key, last, save)
}

// save saves r, and tries for 15 s or until the lock is lost.
func (s *Stored) save(lock context.Context, key string, r record, save func([]byte) error) error {
	data, err := r.encode()
	if err != nil {
		return &StoreError{opSave, key, err}
	}
	s.mu.Lock()
	s.tried = s.tried || s.last == r
	s.mu.Unlock()
	lock, cancel := context.WithTimeout(lock, saveTime)
	defer cancel()
	err = spaced(lock, func() error { return save(data) }, func(err error) bool { return !errors.Is(err, ErrLocked) })
	if err != nil {
		return &StoreError{opSave, key, err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == r {
		s.unsaved = false
	}
	return nil
}

// learn takes what the Store holds, if it is newer than what is known here. A
// value of the same generation is no news, unless what is known here was never saved.
func (s *Stored) learn(key string, value []byte) error {
	var stored record
	if value != nil {
		if err := stored.decode(value); err != nil {
			return &StoreError{opDecode, key, err}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsaved && !s.tried && stored.gen >= s.last.gen {
		s.lost = s.last
	}
	if stored.gen > s.last.gen || stored.gen == s.last.gen && s.unsaved {
		s.last, s.unsaved = stored, false
	}
	return nil
}

// put makes r the newest, to be saved; s.mu is held.
func (s *Stored) put(r record) { s.last, s.unsaved, s.tried = r, true, false }

// known returns the newest token if it is saved, good and another one than old;
// else the record from which to go on. errUnsaved means that the lock is needed
// first.
func (s *Stored) known(old *Token) (*Token, record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.unsaved:
		return nil, record{}, errUnsaved
	case s.last.reauthenticate:
		return nil, record{}, fmt.Errorf("%w: the stored token was refused or forgotten", ErrReauthenticate)
	case s.last.token.good(time.Now()) && !s.last.token.same(old):
		return s.last.token, record{}, nil
	}
	return nil, s.last, nil
}

// without answers while the Store is away, which err says.
func (s *Stored) without(ctx context.Context, old *Token, err error) (*Token, error) {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if last.token.good(time.Now()) && !last.token.same(old) {
		return last.token.soon(), nil
	}
	if last.reauthenticate {
		return nil, fmt.Errorf("%w: the stored token was refused or forgotten, and %w", ErrReauthenticate, err)
	}
	if !s.Unshared || s.spends(last) || s.spends(record{token: old}) {
		return nil, err
	}
	began := time.Now()
	token, err := s.Source.Token(ctx, old)
	if err != nil || token.check() != nil {
		return token, err
	}
	s.keep(record{gen: last.gen + 1, token: token.withLifetime(began)})
	return token, nil
}

// spends reports whether to go on from base spends a refresh token.
func (s *Stored) spends(base record) bool {
	if base.token != nil {
		return base.token.RefreshToken != ""
	}
	r, ok := s.Source.(*RefreshToken)
	return ok && r.RefreshToken != ""
}

// soon returns a copy that the Cache asks for again in a moment, when the Store
// may be back.
func (t *Token) soon() *Token {
	again := *t
	again.RefreshAt = time.Now().Add(unsavedPause)
	return &again
}

// Set saves the token of a login, whatever the Store holds, and so hands it to
// all processes. It waits for the lock until ctx ends. If it fails, the next
// call of Token saves it, unless somebody has logged in or out since.
func (s *Stored) Set(ctx context.Context, token *Token) error {
	if err := checkLogin(token); err != nil {
		return err
	}
	return s.force(ctx, record{token: token.withLifetime(time.Now())})
}

// Forget saves that the user has logged out: no process obtains a token any more
// until Set, in any process. Access tokens in use elsewhere live on until they
// expire or are refused. It waits for the lock until ctx ends. If it fails, the
// next call of Token saves it, as with Set.
func (s *Stored) Forget(ctx context.Context) error {
	return s.force(ctx, record{reauthenticate: true})
}

// force makes r the newest. Its generation is far above what exchanges count to:
// a process that knows more than the Store, because that was emptied, must not
// think that r is old.
func (s *Stored) force(ctx context.Context, r record) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	s.mu.Lock()
	r.gen = max(s.last.gen+1, uint64(max(0, time.Now().UnixMilli())))
	s.lost = record{}
	s.put(r)
	s.mu.Unlock()
	return s.retry(ctx, func() error {
		return s.locked(ctx, key, saveTime, func(lock context.Context, save func([]byte) error) error {
			s.mu.Lock()
			if s.lost == r { // the Store had a later one, but this is the newest
				r.gen = s.last.gen + 1
				s.lost = record{}
				s.put(r)
			}
			s.mu.Unlock()
			return s.flush(lock, key, save)
		})
	})
}

// Replace saves next, which a server has sent along with an answer to old, if
// old is still the newest; see [Cache.Replace]. It takes at most 5 s, and does not
// wait if somebody else has the lock: the next call of Token saves next, unless
// there is a newer one.
func (s *Stored) Replace(ctx context.Context, old, next *Token) error {
	if err := checkLogin(next); err != nil {
		return err
	}
	key, err := s.key()
	if err != nil {
		return err
	}
	if !s.replace(old, *next) {
		return nil
	}
	err = s.locked(ctx, key, storeTime, func(context.Context, func([]byte) error) error { return nil })
	if errors.Is(err, ErrLocked) {
		return nil
	}
	return err
}

func (s *Stored) replace(old *Token, next Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.token.same(old) {
		return false
	}
	if next.RefreshToken == "" {
		next.RefreshToken = s.last.token.RefreshToken
	}
	gen := s.last.gen
	if !s.unsaved { // else another process may have counted on from the same
		gen++
	}
	s.put(record{gen: gen, token: next.withLifetime(time.Now())})
	return true
}

// retry calls try until nobody else has the lock, or ctx ends.
func (s *Stored) retry(ctx context.Context, try func() error) error {
	locked := func(err error) bool { return errors.Is(err, ErrLocked) }
	if err := spaced(ctx, try, locked); !locked(err) {
		return err
	}
	return ctx.Err()
}

// spaced calls try until it succeeds, or fails in a way that is not worth another
// try, or ctx ends. It returns the last error of try.
func spaced(ctx context.Context, try func() error, again func(error) bool) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := try()
		if err == nil || !again(err) || sleep(ctx, wait/2+rand.N(wait/2)) != nil {
			return err
		}
	}
}

// Pending reports whether a token, a login or a logout is yet to be saved, and would
// be lost with this Stored. The next call of Token saves it.
func (s *Stored) Pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsaved
}

// A fingerprinter is a Source whose configuration tells whose tokens it obtains.
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

func (s *Stored) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return 10 * time.Second
}

// Format writes the types of Source and Store and the key, whatever the verb: no
// secret, and nothing that changes meanwhile.
func (s *Stored) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, "%T in %T as %q", s.Source, s.Store, s.Key)
}

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (s *Stored) MarshalText() ([]byte, error) { return fmt.Append(nil, s), nil }
