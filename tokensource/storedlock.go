package tokensource

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
	"github.com/tokentripper/tokentripper/internal/lineage"
)

// Bounds of waiting for a lock, and for a store that does not save.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = time.Second
)

var (
	errNotCalled = errors.New("the store did not call fn")
	errNoTime    = errors.New("the store was too slow, no time is left for an exchange")
	errDoubtful  = errors.New("the store has lost records, and the refresh token may have been spent")
)

// A turn is the time with the lock of a key.
type turn struct {
	ctx   context.Context // lasts as long as the lock, whatever becomes of the caller
	key   string
	value []byte // in the Store
	save  func([]byte) error
}

// lock calls fn with the lock of key, which lasts for life at most. The Store has 5 s
// to grant the lock.
func (s *Stored) lock(ctx context.Context, key string, life time.Duration, fn func(turn) error) error {
	hold, cancel := context.WithTimeout(context.WithoutCancel(ctx), life)
	defer cancel()
	patience, done := context.WithTimeout(ctx, storeTime)
	defer done()
	stop := context.AfterFunc(patience, cancel)
	defer stop()
	ran, result := false, error(nil)
	err := s.Store.Update(hold, key, func(value []byte, save func([]byte) error) error {
		if !stop() {
			return patience.Err()
		}
		ran = true
		result = fn(turn{hold, key, value, save})
		return result
	})
	switch {
	case ran: // what happens to the lock afterwards does not matter
		return result
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return storeError(opUpdate, key, cmp.Or(err, errNotCalled))
}

// settle reads the record in the Store, and saves a newer one of this process until the
// newest is saved.
func (s *Stored) settle(t turn) (known, error) {
	newest, err := s.learn(t.key, t.value, true)
	for err == nil && newest.Outcome != lineage.Saved {
		newest, err = s.save(t, newest)
	}
	return newest, err
}

// obtain settles, and asks Source if necessary: another process may have been faster.
func (s *Stored) obtain(t turn, old *Token) (*Token, error) {
	newest, err := s.settle(t)
	if err != nil {
		return nil, err
	}
	if token, err := newest.answer(old); token != nil || err != nil {
		return token, err
	}
	return s.exchange(t, newest)
}

// exchange asks Source with the newest token and saves the result. It also saves that a
// refresh token is dead, so that no other process sends it. The end of the lock's life
// is reserved for the save.
func (s *Stored) exchange(t turn, base known) (*Token, error) {
	end, _ := t.ctx.Deadline()
	call, cancel := context.WithDeadline(t.ctx, end.Add(-saveTime))
	defer cancel()
	switch {
	case call.Err() != nil:
		return nil, &StoreError{opUpdate, t.key, errNoTime}
	case base.Doubtful(time.Now().UnixMilli()) && s.spends(base.token):
		return nil, &StoreError{opUpdate, t.key, errDoubtful}
	}
	token, err := s.ask(call, base.token)
	if err != nil && !(needsLogin(err) && s.ends(base.token)) {
		return nil, asked{err}
	}
	next := base.follower(token)
	s.keep(next)
	_, failed := s.save(t, next)
	switch {
	case err != nil:
		return nil, asked{err}
	case failed != nil:
		if errors.Is(failed, ErrLocked) {
			go s.saveLater(t)
		}
		return token.soon(), nil
	}
	return token, nil
}

// saveLater saves what is pending because the lock was lost, even if no request follows:
// other processes wait for it only as long as a doubt lasts.
func (s *Stored) saveLater(t turn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), saveTime)
	defer cancel()
	guarded("tokensource: the store", func() error {
		return s.retry(ctx, func() error { return s.flush(ctx, t.key, saveTime) })
	})
}

// ends reports whether all processes need a login after Source has returned
// ErrReauthenticate for base.
func (s *Stored) ends(base *Token) bool {
	return s.spends(base) || base != nil && !base.good(time.Now())
}

// save saves k. It repeats a failing save for 15 s or until the lock is lost. It
// returns the newest record, which may be a login or logout that has taken effect
// meanwhile.
func (s *Stored) save(t turn, k known) (known, error) {
	data, err := record{k.Record, k.token}.encode()
	if err != nil {
		return known{}, &StoreError{opSave, t.key, err}
	}
	s.note(k, lineage.Unknown)
	ctx, cancel := context.WithTimeout(t.ctx, saveTime)
	defer cancel()
	refused := k.Outcome != lineage.Unknown
	err = spaced(ctx, func() error {
		err := sound(t.save(data))
		refused = refused && errors.Is(err, ErrLocked)
		return err
	}, func(err error) bool { return !errors.Is(err, ErrLocked) })
	if err == nil {
		return s.learn(t.key, data, true)
	}
	if refused {
		s.note(k, lineage.Refused)
	}
	return known{}, &StoreError{opSave, t.key, err}
}

// note notes the result of saving k, if k is still the newest.
func (s *Stored) note(k known, outcome lineage.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.Record == k.Record {
		s.newest.Outcome = outcome
	}
}

// retry calls try until the lock is free or ctx ends.
func (s *Stored) retry(ctx context.Context, try func() error) error {
	locked := func(err error) bool { return errors.Is(err, ErrLocked) }
	if err := spaced(ctx, try, locked); !locked(err) {
		return err
	}
	return ctx.Err()
}

// spaced calls try until it succeeds, until it fails with an error for which again
// returns false, or until ctx ends. It returns the last error of try.
func spaced(ctx context.Context, try func() error, again func(error) bool) error {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := try()
		if err == nil || !again(err) || clock.Wait(ctx, nil, wait/2+rand.N(wait/2)) != nil {
			return err
		}
	}
}
