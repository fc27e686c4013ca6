package tokensource

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Set makes token the current one, after a login. It ends a refresh in flight
// and wins over it; those who wait look again. A token with a refresh token
// alone is exchanged at the next call of Token. A JWT without Expiry has what its
// exp leaves of it by the local clock.
//
// The token is handed on to a Source that has a Set method, whose error is
// returned; then the token is used all the same, and the Source is asked soon, so
// that it may save it. A Source is told of Set, Replace and Forget one after the
// other, in the order in which they took effect here, and asked for no token
// meanwhile: if ctx ends before it is the turn of this one, Set returns ctx's error, and the
// Source is told all the same. A later Set or Forget ends the context of one that is not done, which
// then returns what the later one does: nil means that the Source has taken this login or
// a later login or logout.
func (c *Cache) Set(ctx context.Context, token *Token) error {
	if err := checkLogin(token); err != nil {
		return err
	}
	now := time.Now()
	token = token.atLogin(now)
	l := newLease(token, now, now)
	l.login = true
	t := c.logIn(l, nil)
	var say func(context.Context) error
	if s, ok := c.Source.(setter); ok {
		say = func(ctx context.Context) error { return s.Set(ctx, token) }
	}
	err := t.tellLogin(ctx, say)
	if err != nil {
		c.unlessOvertaken(t, func(now time.Time) { c.lease.early = now.Add(unsavedPause) })
	}
	return err
}

// Forget drops the token, after a logout. It ends a refresh in flight and wins
// over it. Until Set, Token returns [ErrReauthenticate] and the Source is not
// asked. If the Source has a Forget method, as [Stored] has, Forget calls it, see Set,
// and returns its error. From then on Token asks such a Source again, because the next
// login may take place in another process.
func (c *Cache) Forget(ctx context.Context) error {
	t := c.logIn(lease{}, endedRow(ErrReauthenticate))
	var say func(context.Context) error
	s, ok := c.Source.(forgetter)
	if ok {
		say = s.Forget
	}
	err := t.tellLogin(ctx, say)
	if _, keeps := s.(keeper); ok && err == nil || keeps { // that remembers it even so, and saves it with the next call
		c.unlessOvertaken(t, func(time.Time) { c.setRow(nil) })
	}
	return err
}

// Replace makes next the current token if old still is, and nothing is about to
// replace it: for a token that a server has sent along with an answer to old.
// If next has no refresh token, it keeps the current one. If old is no longer current,
// or about to be replaced, Replace does nothing and returns nil, because next may be
// older than what has come since. If the Source has a Replace method, Replace calls it, see Set; otherwise it
// calls Set, if the Source has that. It returns the error of that call.
func (c *Cache) Replace(ctx context.Context, old, next *Token) error {
	if err := checkLogin(next); err != nil {
		return err
	}
	if old == nil {
		return errors.New("tokensource: Replace needs two tokens")
	}
	kept, t := c.replace(old, *next)
	if t == nil {
		return nil
	}
	var say func(context.Context) error
	switch s := c.Source.(type) {
	case replacer:
		say = func(ctx context.Context) error { return s.Replace(ctx, old, kept) }
	case setter:
		say = func(ctx context.Context) error { return s.Set(ctx, kept) }
	}
	return t.tell(ctx, say)
}

// replace returns next as it is kept; nil if it is not.
func (c *Cache) replace(old *Token, next Token) (*Token, *telling) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lease.token.same(old) || c.flight != nil || c.call != nil {
		return nil, nil
	}
	row := c.row
	if row != nil && !row.ended || next.RefreshToken != "" {
		row = nil
	}
	if next.RefreshToken == "" {
		next.RefreshToken = c.lease.token.RefreshToken // dead, if the row has ended
	}
	now := time.Now()
	kept := next.withLifetime(now)
	l := newLease(kept, now, now)
	l.login = true
	c.reset(l, row, now)
	return kept, c.next(false)
}

// logIn begins anew after a login or logout.
func (c *Cache) logIn(l lease, r *row) *telling {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset(l, r, time.Now())
	return c.next(true)
}

// unlessOvertaken calls f if nothing has taken effect since t.
func (c *Cache) unlessOvertaken(t *telling, f func(now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.telling == t {
		now := time.Now()
		f(now)
		c.publish(now)
	}
}

// reset begins anew; c.mu is held.
func (c *Cache) reset(l lease, r *row, now time.Time) {
	if c.call != nil {
		c.call.void = true
	}
	f := c.flight
	c.flight, c.lease = nil, l
	c.setRow(r)
	c.publish(now)
	f.land()
}

// A telling hands a Set, Replace or Forget on to the Source.
type telling struct {
	before <-chan struct{} // closed when the one before is over; nil: there was none
	over   chan struct{}
	err    error // once it is over: what became of it

	login context.Context // ends with the next Set or Forget, which calls
	end   context.CancelCauseFunc
}

// next notes that something has taken effect that the Source is to be told;
// c.mu is held.
func (c *Cache) next(login bool) *telling {
	t := &telling{over: make(chan struct{})}
	if last := c.telling; last != nil {
		t.before, t.login, t.end = last.over, last.login, last.end
		if login {
			last.end(overtaking{t})
		}
	}
	if login || t.login == nil {
		t.login, t.end = context.WithCancelCause(context.Background())
	}
	c.telling = t
	return t
}

// An overtaking is why a login's context ends: by a later login or logout.
type overtaking struct{ by *telling }

func (overtaking) Error() string { return "tokensource: a later login or logout has taken effect" }

// isOver reports whether nobody is being told any more.
func (t *telling) isOver() bool {
	if t == nil {
		return true
	}
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

// tell calls say, if not nil, when it is its turn.
func (t *telling) tell(ctx context.Context, say func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.login, cancel)()
	return t.inTurn(ctx, func() error {
		defer close(t.over)
		if say != nil {
			t.err = guarded(func() error { return say(ctx) })
		}
		return t.err
	})
}

// tellLogin is tell for a login or logout. If it fails and there is a later one, it
// returns what becomes of that: until the Source has one of the two, other processes
// may go on with what was before.
func (t *telling) tellLogin(ctx context.Context, say func(context.Context) error) error {
	err := t.tell(ctx, say)
	for err != nil {
		later, overtaken := errors.AsType[overtaking](context.Cause(t.login))
		if !overtaken {
			return err
		}
		t = later.by
		select {
		case <-t.over:
			err = t.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// inTurn calls say after the telling before. If ctx ends first, say is called all
// the same, for a Source may remember what it is told in vain.
func (t *telling) inTurn(ctx context.Context, say func() error) error {
	if t.before == nil {
		return say()
	}
	select {
	case <-t.before:
		return say()
	case <-ctx.Done():
		go func() { <-t.before; say() }()
		return ctx.Err()
	}
}

// guarded calls the Source, perhaps in a goroutine that no caller can recover.
func guarded(call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("tokensource: the source panicked: %v", r)
		}
	}()
	return sound(call())
}

// told waits until the Source was told of all that has taken effect; false if ctx
// has ended.
func (c *Cache) told(ctx context.Context) bool {
	c.mu.Lock()
	last := c.telling
	c.mu.Unlock()
	if last != nil {
		select {
		case <-last.over:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}
