package tokensource

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// A row is a series of refreshes that brought nothing new. It does not change: the next
// refresh makes another row.
type row struct {
	err    error         // of the last refresh; nil: the Source has confirmed its token
	ended  bool          // only a login helps
	began  time.Time     // when the first failed refresh began
	lasted time.Duration // duration of all attempts and pauses
	until  time.Time     // when the next refresh may begin
	hidden bool          // callers wait for the next refresh instead of getting err
	next   *flight       // never begins; it lands when another row, or none, replaces this one
}

// Bounds of the pauses. These numbers suit both one client's short outage and a
// fleet's, see internal/lab/fleet. As a pause is at most a quarter of the row so far,
// an outage delays its callers by at most a quarter of its length.
const (
	firstPause    = 300 * time.Millisecond
	longestPause  = 100 * time.Second // together with the attempt before it
	longestDemand = 5 * time.Minute   // of a server's Retry-After
)

// resting reports whether the Source is left alone.
func (r *row) resting(now time.Time) bool { return !clock.Passed(now, r.until) }

// pause draws the next pause after an attempt of this duration.
func (r *row) pause(attempt time.Duration) time.Duration {
	most := max(firstPause, min(r.lasted/4, longestPause-attempt))
	return most - rand.N(most*2/5)
}

// setRow replaces the row, whose waiting callers look again; c.mu is held.
func (c *Cache) setRow(r *row) {
	if c.row != nil {
		c.row.next.land()
	}
	c.row = r
}

// rest leaves the Source alone after a refresh that began at began. It failed with err,
// or brought nothing new if err is nil; c.mu is held.
func (c *Cache) rest(err error, least, most time.Duration, began, now time.Time) {
	attempt := now.Sub(began)
	r := &row{err: err, began: began, lasted: attempt, next: &flight{done: make(chan struct{})}}
	if c.row != nil {
		r.lasted += c.row.lasted
		if c.row.err != nil {
			r.began = c.row.began
		}
	}
	pause := min(max(r.pause(attempt), least), most)
	r.lasted += pause
	r.until = now.Add(pause)
	r.hidden = transient(err) && r.until.Sub(r.began) <= c.patience()
	if !c.lease.early.IsZero() {
		c.lease.early = later(c.lease.early, r.until)
	}
	c.setRow(r)
}

// adopt makes a token of the Source the current one; c.mu is held. A token that is not
// new, or has already expired, is served as well, because clocks may be wrong. The
// Source is then asked again as rarely as after a failure, but at the token's end.
func (c *Cache) adopt(token *Token, refused bool, began, now time.Time) {
	before := c.lease
	c.lease = newLease(token, began, now)
	c.lease.login = before.login && token.same(before.token)
	if token.same(before.token) && token.Expiry.Round(0).Equal(before.token.Expiry) {
		c.lease.until = before.until // the same by the monotonic clock, too, whatever the wall clock did
	}
	paced := !clock.Passed(now, token.RefreshAt) // the Source itself says when to ask again
	fresh := !token.same(before.token) || !refused && (paced || c.lease.extends(&before))
	if fresh && c.lease.good(now) {
		c.setRow(nil)
		return
	}
	most := longestPause
	for _, end := range []time.Time{token.RefreshAt, c.lease.until} {
		if !clock.Passed(now, end) {
			most = min(most, end.Sub(now))
		}
	}
	c.rest(nil, 0, most, began, now)
}

// fail remembers a failure; c.mu is held.
func (c *Cache) fail(err error, began, now time.Time) {
	_, told := c.Source.(setter)
	if needsLogin(err) && !told {
		c.setRow(&row{err: err, ended: true})
		return
	}
	most := longestDemand
	if needsLogin(err) { // the login may take place in another process
		most = nextLook(now).Sub(now)
	}
	c.rest(err, demanded(err), most, began, now)
}

// demanded draws the pause that a server's Retry-After demands. It is longer by up to a
// quarter, which spreads a fleet that received the same demand.
func demanded(err error) time.Duration {
	e, _ := errors.AsType[*EndpointError](err)
	if e == nil {
		return 0
	}
	least := min(max(0, e.RetryAfter), longestDemand*4/5)
	return least + rand.N(least/4+1)
}

// transient reports whether another attempt may succeed soon. It cannot if a login is
// needed, if the token endpoint refuses the request itself, or if there is no Source.
func transient(err error) bool {
	e, _ := errors.AsType[*EndpointError](err)
	if e == nil || e.StatusCode/100 != 4 {
		return err != errNoSource && !errors.Is(err, ErrReauthenticate)
	}
	return e.StatusCode == http.StatusRequestTimeout || e.StatusCode == http.StatusTooEarly || e.StatusCode == http.StatusTooManyRequests
}

func (c *Cache) patience() time.Duration { return cmp.Or(c.Patience, 3*time.Second) }
