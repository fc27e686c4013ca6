package tokensource

import (
	"context"
	"errors"
	"time"
)

// Set makes token the current one, after a login. It ends a refresh in flight and wins
// over it; the callers that wait look again. If token has only a refresh token, the
// next call of Token exchanges it. A JWT without Expiry expires at its exp by the local
// clock.
//
// If the Source has a Set method, Set calls it and returns its error. Even after an
// error the token is used, and the Source is asked soon, so that it may save the token.
// The Source receives Set, Replace and Forget one after the other, in the order in
// which they took effect here, and is not asked for a token meanwhile. If ctx ends
// before the Source's turn has come, Set returns ctx's error, and the Source still
// receives the call. A later Set or Forget ends the context of an unfinished one, which
// then returns the result of the later one. So nil means that the Source has taken this
// login, or a later login or logout.
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

// Forget drops the token, after a logout. It ends a refresh in flight and wins over it.
// Until Set, Token returns [ErrReauthenticate] and does not ask the Source. If the
// Source has a Forget method, as [Stored] has, Forget calls it as Set does, and returns
// its error. From then on Token asks such a Source again, because the next login may
// take place in another process.
func (c *Cache) Forget(ctx context.Context) error {
	t := c.logIn(lease{}, &row{err: ErrReauthenticate, ended: true})
	var say func(context.Context) error
	s, ok := c.Source.(forgetter)
	if ok {
		say = s.Forget
	}
	err := t.tellLogin(ctx, say)
	if _, keeps := s.(keeper); ok && err == nil || keeps { // a keeper remembers the logout even after an error, and saves it with the next call
		c.unlessOvertaken(t, func(time.Time) { c.setRow(nil) })
	}
	return err
}

// Replace makes next the current token, for a token that a server has sent along with
// an answer to old. If next has no refresh token, it keeps the current one. If old is
// no longer current, or is about to be replaced, Replace does nothing and returns nil,
// because next may be older than the current token. If the Source has a Replace method,
// Replace calls it as Set does; otherwise it calls the Source's Set, if there is one.
// It returns the error of that call.
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

// replace returns next in the form that is kept, or nil if it is not kept.
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

// logIn starts anew after a login or logout.
func (c *Cache) logIn(l lease, r *row) *telling {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset(l, r, time.Now())
	return c.next(true)
}

// unlessOvertaken calls f if no other login, logout or Replace has taken effect since
// t.
func (c *Cache) unlessOvertaken(t *telling, f func(now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.telling == t {
		now := time.Now()
		f(now)
		c.publish(now)
	}
}

// reset starts anew; c.mu is held.
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

// A telling passes a Set, Replace or Forget on to the Source.
type telling struct {
	before <-chan struct{} // closed when the telling before is over; nil: there was none
	over   chan struct{}
	err    error // the result, once it is over

	login context.Context // ends with the next Set or Forget, which calls end
	end   context.CancelCauseFunc
}

// next notes that the Source is to receive another call; c.mu is held.
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

// An overtaking is the cause that ends a login's context: a later login or logout.
type overtaking struct{ by *telling }

func (overtaking) Error() string { return "tokensource: a later login or logout has taken effect" }

// isOver reports whether the Source has received all calls.
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

// tell calls say, if not nil, in its turn.
func (t *telling) tell(ctx context.Context, say func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.login, cancel)()
	return t.inTurn(ctx, func() error {
		defer close(t.over)
		if say != nil {
			t.err = guarded(theSource, func() error { return say(ctx) })
		}
		return t.err
	})
}

// tellLogin is tell for a login or logout. If it fails and there is a later login or
// logout, it returns the result of that: until the Source has one of the two, other
// processes may go on with the state before.
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

// inTurn calls say after the telling before. If ctx ends first, say is still called
// later, because a Source may remember a call that failed.
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

// told waits until the Source has received all calls. It returns false if ctx has
// ended.
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
