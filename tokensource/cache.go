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

// A Cache keeps one token of the Source below it, and refreshes it once for all
// callers. It does so when the token has expired, when a server has refused it, and
// early: between 55 and 90 percent of its lifetime, while no caller waits.
//
// A refresh does not depend on the callers that wait for it. Each caller leaves when
// its own context ends; the refresh goes on, so that a refresh token that the server
// rotates meanwhile is not lost. The Cache calls the Source once at a time.
//
// After a failure the Cache leaves the Source alone for a pause: at first for 0.18 to
// 0.3 s, then for at most a quarter of the time that the attempts and pauses so far
// have taken. An attempt and its pause together take at most 100 s, unless the server's
// Retry-After demands more; the Cache honours it up to 5 minutes. During a pause Token
// returns the token if it is still good. Otherwise Token waits during the first
// seconds, see Patience, and later returns the remembered error. An error that wraps
// [ErrReauthenticate] is final until [Cache.Set], unless the Source has a Set method.
//
// A Source that returns the same access token with a later Expiry has extended it. A
// Source that returns the same token unchanged has no other: the Cache leaves it alone
// as after a failure, and asks again when the token expires. Meanwhile Token returns
// that token, even to callers whose server refused it.
//
// A token expires, and a pause ends, when either the monotonic or the wall clock says
// so. After a suspension of the machine no expired token is sent, and setting a clock
// back does not keep a token alive.
//
// A Cache needs only its Source, is safe for concurrent use, and has nothing to close.
// You must not copy it after its first use.
type Cache struct {
	// Source obtains the tokens. Its parameter old is the Cache's own current token.
	Source Source

	// Timeout bounds a refresh. Zero means 30 s. At its end the Source's context ends,
	// and callers get an error even if the Source goes on.
	Timeout time.Duration

	// Patience bounds how long an outage is hidden from callers. A caller without a
	// good token waits for the next attempt if it begins within this time of the first
	// failed attempt's beginning, but not beyond the caller's own context. Two kinds of
	// errors are returned at once: one that wraps [ErrReauthenticate], and an
	// [EndpointError] with a status of 400 to 499, except 408, 425 and 429. Zero means
	// 3 s, which hides outages of up to 2.4 s. A negative value means that each failure
	// is returned.
	Patience time.Duration

	// OnRefresh, if not nil, is called after each refresh, once the token is in use.
	// Use it for metrics and logs. To save tokens, see [Func]. It runs in its own
	// goroutine, and may call the Cache. If it panics, package log logs the panic with
	// its stack, and the process goes on.
	OnRefresh func(Refresh)

	// ready is all that Token reads while it holds a good token: then Token takes no
	// lock and allocates nothing. Nil means that Token must look.
	ready    atomic.Pointer[lease]
	calls    singleflight.Group // of Source: one at a time
	watching sync.Mutex         // held while Source looks

	// The token is none, good until its end, or expired. The Source is in one of the
	// states below. Token, whose old is the token that a server refused:
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

// A state is the state of the Source.
type state int

const (
	idle      state = iota
	asking          // a refresh is in progress
	leftAlone       // the last refresh failed, or brought the same token
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

// Token returns the current token if it is good and differs from old. Otherwise it
// waits for a refresh, until ctx ends. It returns old again if the Source has no other
// token.
//
// While a refresh runs because a server refused the token, all callers wait for it, if
// the refresh before succeeded. A caller with another old waits at most 1 s.
//
// The error is the one of ctx or of the Source, or wraps context.DeadlineExceeded after
// Timeout.
func (c *Cache) Token(ctx context.Context, old *Token) (*Token, error) {
	if token := c.atOnce(old); token != nil {
		return token, nil
	}
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

// atOnce returns what Token may return without a lock and without ctx, or nil.
func (c *Cache) atOnce(old *Token) *Token {
	if l := c.ready.Load(); l != nil && !l.token.same(old) {
		if now := time.Now(); !lapsed(now, l.until) && !lapsed(now, l.early) {
			return l.token
		}
	}
	return nil
}

// Peek returns the current token if it differs from old, and is good or the Source's
// only one; otherwise nil. It neither waits nor asks the Source.
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

// look implements the table above: it returns a token or an error at once, or what to
// wait for.
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
		case r.err == nil: // even if it has expired, because clocks may be wrong
			return c.lease.token, nil, nil
		case r.hidden:
			return nil, &wait{flight: r.next, until: r.until}, nil
		}
	}
	return nil, nil, c.row.err
}

// offer implements the table's column for a good token; c.mu is held.
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

// watch lets a Source that shares the token look at the store when it is time; c.mu is
// held.
func (c *Cache) watch(ctx context.Context, now time.Time) {
	s, ok := c.Source.(looker)
	if !ok || !clock.Passed(now, c.again) {
		return
	}
	c.again = nextLook(now)
	go func() {
		if c.watching.TryLock() {
			defer c.watching.Unlock()
			if guarded(theSource, func() error { return s.Look(withoutTrace(context.WithoutCancel(ctx))) }) != nil {
				c.watchSoon()
			}
		}
	}()
}

// watchSoon makes the Source look again soon, because a look failed.
func (c *Cache) watchSoon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.again = now.Add(2*unsavedPause + rand.N(unsavedPause))
	c.publish(now)
}

// publish sets what Token may return without a lock; c.mu is held.
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
	until  time.Time // at most until then; zero means no bound
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

// expendable reports whether nothing is in progress and the Cache can be dropped
// without a loss: it has no refresh token that may work, and no good token of a login
// that the Source does not know of.
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
	if !c.lease.good(time.Now()) || dead && c.lease.until.IsZero() { // otherwise such a token would keep its place permanently
		return true
	}
	_, told := c.Source.(setter)
	return !dead && (told || !c.lease.login)
}

// Format writes the type of Source for every verb. It shows no secret and reads nothing
// that changes concurrently.
func (c *Cache) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "cache of %T", c.Source) }
