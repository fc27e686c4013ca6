package tokensource

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// A Cache keeps one token of the Source below it, and refreshes it once for
// all callers: when it has expired, when a server has refused it, and early,
// between 55 and 90 percent of its lifetime, while nobody waits.
//
// A refresh belongs to none of its callers: each leaves when its own context
// ends, the refresh goes on for the others, and a refresh token that was
// rotated meanwhile is not lost. There is at most one call of the Source at a
// time.
//
// After a failure the Source is left alone for a while: at first for 0.18 to 0.3
// s, then for at most a quarter of what the attempts and pauses so far have taken. An
// attempt and its pause take 100 s at most, unless the server's Retry-After says
// more; that is honoured up to 5 minutes. Meanwhile Token returns the token if it
// is still good; else it waits during the first seconds, see Patience, and later
// returns the remembered error. An error that wraps [ErrReauthenticate] is final
// until [Cache.Set], unless the Source has a Set method itself.
//
// A Source that returns the same access token with a later Expiry has extended it.
// If it returns the token as it was, it has no other: it is left alone as after a
// failure, and asked again when the token expires. Token returns that token
// meanwhile, even to callers whose server refused it.
//
// A token expires, and a pause ends, when the monotonic or the wall clock says
// so: after a machine was suspended no expired token is sent, and a clock that is
// set back keeps none alive.
//
// A Cache needs only its Source, is safe for concurrent use, and has nothing to
// close. It must not be copied after its first use.
type Cache struct {
	// Source obtains the tokens. It is called with the Cache's own current
	// token as old.
	Source Source

	// Timeout bounds a refresh. Zero means 30 s. The context that the Source
	// gets ends then; callers are told even if the Source goes on.
	Timeout time.Duration

	// Patience bounds how long an outage is hidden: callers without a good token
	// wait for the next attempt if it comes within this time of the beginning of
	// the first that failed. They wait no longer than their own context. An error
	// that wraps [ErrReauthenticate] comes at once, and so does an [EndpointError]
	// with a status of 400 to 499 except 408, 425 and 429. Zero means 3 s, which
	// hides outages of up to 2.4 s. Less than zero means that each failure is
	// returned.
	Patience time.Duration

	// OnRefresh, if not nil, is told of every refresh that ended, once the
	// token is in use: to save tokens, see [Func]. It is called in a goroutine
	// of its own, and may call the Cache. A panic in it is logged with its stack by
	// package log, and goes no further.
	OnRefresh func(Refresh)

	// ready is all that Token reads while it holds a good token: then it takes no
	// lock, and allocates nothing. Nil means to look.
	ready    atomic.Pointer[lease]
	calls    singleflight.Group // of Source: one at a time
	watching sync.Mutex         // held while Source looks

	// The token is none, good until its end, or expired. The Source is in one of
	// the states below. Token, with the token that a server refused as old:
	//
	//	             a good token, another than old    none, or only old
	//	idle         returns it; an early refresh      starts a refresh, and waits
	//	             begins if it is due
	//	asking       returns it; if a refusal asked,   waits
	//	             waits 1 s for a newer one
	//	left alone   returns it                        waits within Patience, then returns
	//	                                               the error; or the token, which the
	//	                                               Source has confirmed
	//	ended        returns it                        returns ErrReauthenticate
	mu      sync.Mutex // guards what follows, and every change of ready
	lease   lease      // the token and its end
	flight  *flight    // asked: the refresh that callers wait for
	row     *row       // left alone, or ended; nil if the last refresh brought a new token
	call    *call      // a call of Source that has not returned; it may outlive its flight
	telling *telling   // the last Set, Forget or Replace
	again   time.Time  // when a Source that shares the token looks at what others have
}

// A state is the Source's.
type state int

const (
	idle      state = iota
	asking          // a refresh is under way
	leftAlone       // since the last refresh failed, or brought the same token
	ended           // a login is needed
)

// state returns the Source's state; c.mu is held.
func (c *Cache) state(now time.Time) state {
	switch {
	case c.flight != nil:
		return asking
	case c.row != nil && c.row.ended:
		return ended
	case c.row != nil && c.row.resting(now):
		return leftAlone
	}
	return idle
}

// Token returns the current token if it is good and another one than old.
// Otherwise it waits for a refresh, until ctx ends. It returns old again if the
// Source has no other.
//
// While a refresh runs because a server refused the token, all callers wait for
// it, those with another old for 1 s at most, provided that the refresh before
// succeeded.
//
// The error is ctx's, the Source's, or one that wraps context.DeadlineExceeded
// when Timeout has passed.
func (c *Cache) Token(ctx context.Context, old *Token) (*Token, error) {
	if token := c.atOnce(old); token != nil {
		return token, nil
	}
	return c.get(ctx, old)
}

// atOnce returns what Token may return without a lock and without its ctx; nil if
// it must look.
func (c *Cache) atOnce(old *Token) *Token {
	if l := c.ready.Load(); l != nil && !l.token.same(old) {
		if now := time.Now(); !lapsed(now, l.until) && !lapsed(now, l.early) {
			return l.token
		}
	}
	return nil
}

// get looks until there is a token or an error.
func (c *Cache) get(ctx context.Context, old *Token) (*Token, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		token, w, err := c.look(ctx, old)
		if w == nil {
			return token, err
		}
		w.pass(ctx)
	}
}

// Peek returns the current token if it is another one than old, and good or the
// only one that the Source has, else nil. It neither waits nor asks the Source.
func (c *Cache) Peek(_ context.Context, old *Token) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	served := c.lease.good(now) || c.state(now) == leftAlone && c.row.err == nil
	if !served || c.lease.token.same(old) {
		return nil
	}
	return c.lease.token
}

// look is the table above: a token or an error at once, or what to wait for.
func (c *Cache) look(ctx context.Context, old *Token) (*Token, *wait, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	refused := c.lease.token.same(old)
	if c.lease.good(now) && !refused {
		return c.offer(ctx, now)
	}
	switch c.state(now) {
	case idle:
		cause := Expired
		if c.lease.good(now) {
			cause = Refused
		}
		c.start(ctx, cause, now)
		return nil, c.join(now), nil
	case asking:
		return nil, c.join(now), nil
	case leftAlone:
		c.watch(ctx, now)
		switch r := c.row; {
		case r.err == nil: // even if it has expired, for clocks may be wrong
			return c.lease.token, nil, nil
		case r.hidden:
			return nil, &wait{flight: r.next, until: r.until}, nil
		}
	}
	return nil, nil, c.row.err
}

// offer is the table's column of those with a good token; c.mu is held.
func (c *Cache) offer(ctx context.Context, now time.Time) (*Token, *wait, error) {
	switch c.state(now) {
	case idle:
		if lapsed(now, c.lease.early) {
			c.start(ctx, Early, now)
		}
	case asking:
		if c.flight.holds(now) {
			w := c.join(now)
			w.until = c.flight.hold
			return nil, w, nil
		}
	}
	c.watch(ctx, now)
	c.publish(now)
	return c.lease.token, nil, nil
}

// watch has a Source that shares the token look at what others have, when it is time;
// c.mu is held.
func (c *Cache) watch(ctx context.Context, now time.Time) {
	s, ok := c.Source.(looker)
	if !ok || !clock.Passed(now, c.again) {
		return
	}
	c.again = nextLook(now)
	go func() {
		if c.watching.TryLock() {
			defer c.watching.Unlock()
			if guarded(func() error { return s.Look(withoutTrace(context.WithoutCancel(ctx))) }) != nil {
				c.watchSoon()
			}
		}
	}()
}

// watchSoon has the Source look again, because it could not.
func (c *Cache) watchSoon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.again = now.Add(2*unsavedPause + rand.N(unsavedPause))
	c.publish(now)
}

// publish tells what Token may return without a lock; c.mu is held.
func (c *Cache) publish(now time.Time) {
	if !c.lease.good(now) || c.flight.holds(now) {
		c.ready.Store(nil)
		return
	}
	l := c.lease
	if state := c.state(now); state == asking || state == ended { // no early refresh begins
		l.early = time.Time{}
	}
	if _, ok := c.Source.(looker); ok {
		if c.again.IsZero() {
			c.again = nextLook(now)
		}
		if l.early.IsZero() || c.again.Before(l.early) {
			l.early = c.again
		}
	}
	c.ready.Store(&l)
}

// A wait is what a caller waits for before it looks again.
type wait struct {
	flight *flight
	until  time.Time // no longer than this; zero means no bound
}

// pass returns when the wait is over, or ctx ends.
func (w *wait) pass(ctx context.Context) {
	var again <-chan time.Time
	if !w.until.IsZero() {
		again = time.After(time.Until(w.until))
	}
	select {
	case <-ctx.Done():
	case <-again:
	case <-w.flight.done:
	}
}

// expendable reports whether nothing is under way, and nothing would be lost with the
// Cache: no refresh token that may work, and no good token of a login that the Source
// was not told of.
func (c *Cache) expendable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil || c.call != nil || !c.telling.isOver() {
		return false
	}
	if k, ok := c.Source.(keeper); ok {
		return !k.Pending()
	}
	dead := c.row != nil && needsLogin(c.row.err)
	if !dead && c.lease.token != nil && c.lease.token.RefreshToken != "" {
		return false
	}
	if !c.lease.good(time.Now()) || dead && c.lease.until.IsZero() { // such a token would keep its place for ever
		return true
	}
	_, told := c.Source.(setter)
	return !dead && (told || !c.lease.login)
}

// Format writes the type of Source, whatever the verb: no secret, and nothing
// that changes meanwhile.
func (c *Cache) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "cache of %T", c.Source) }
