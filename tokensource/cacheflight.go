package tokensource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptrace"
	"runtime/debug"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// A Refresh is the argument of [Cache.OnRefresh].
type Refresh struct {
	Cause    Cause
	Duration time.Duration // from the moment it was first needed to its end
	Waiters  int           // callers that waited for it, including those that left early
	Err      error         // nil if there is a new token
}

// tell calls fn, in a goroutine where no caller can recover.
func (r Refresh) tell(fn func(Refresh)) {
	defer func() {
		if p := recover(); p != nil {
			log.Printf("tokensource: Cache.OnRefresh panicked: %v\n%s", p, debug.Stack())
		}
	}()
	fn(r)
}

// A Cause is the reason for a refresh.
type Cause string

// The causes of a refresh.
const (
	Expired Cause = "expired" // there was no good token
	Early   Cause = "early"   // part of the token's lifetime had passed
	Refused Cause = "refused" // a server refused the token
)

// A flight is a refresh as its callers see it. It makes one call of the Source, or more
// if a call began before a Set or Forget, or for another flight.
type flight struct {
	cause   Cause
	began   time.Time
	waiters int
	hold    time.Time // until then all callers wait, including those with a good token

	done chan struct{} // closed at the end, for waiting callers to look again
}

// A call is one call of the Source. It outlives its flight if the Source ignores its
// context.
type call struct {
	flight *flight
	began  time.Time
	old    *Token
	void   bool // Set or Forget has taken effect since

	token *Token
	err   error
}

// longestHold is how long callers with a good token wait for a newer one after another
// caller's server refused theirs: their own servers may accept it.
const longestHold = time.Second

// holds reports whether callers with a good token wait as well.
func (f *flight) holds(now time.Time) bool {
	return f != nil && !clock.Passed(now, f.hold)
}

// start begins a flight; c.mu is held.
func (c *Cache) start(ctx context.Context, cause Cause, now time.Time) {
	ctx, cancel := context.WithTimeout(withoutTrace(context.WithoutCancel(ctx)), c.timeout())
	c.flight = &flight{cause: cause, began: now, done: make(chan struct{})}
	go c.fly(ctx, cancel, c.flight)
}

// join makes the caller wait for the flight. The first caller without a good token, or
// with a refused one, makes all others wait, if the refresh before succeeded; c.mu is
// held.
func (c *Cache) join(now time.Time) *wait {
	f := c.flight
	f.waiters++
	if c.row == nil && f.hold.IsZero() {
		f.hold = now.Add(longestHold)
		c.publish(now)
	}
	return &wait{flight: f}
}

// fly calls the Source until the flight is over.
func (c *Cache) fly(ctx context.Context, cancel context.CancelFunc, f *flight) {
	defer cancel()
	for c.told(ctx) {
		returned := c.calls.DoChan("", func() (any, error) {
			c.ask(ctx, f)
			return nil, nil
		})
		select {
		case <-f.done:
			return
		case <-returned:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight == f {
		c.settle(&call{flight: f, err: fmt.Errorf("tokensource: no token came within %v: %w", c.timeout(), ctx.Err())})
	}
}

// ask calls the Source, which may never return.
func (c *Cache) ask(ctx context.Context, f *flight) {
	k := c.begin(f)
	if k == nil {
		return
	}
	k.err = alone(theSource, func() (err error) {
		if c.Source == nil {
			return errNoSource
		}
		k.token, err = c.Source.Token(ctx, k.old)
		return err
	})
	if k.err == nil {
		k.err = k.token.check()
	}
	c.returned(k)
}

const theSource = "tokensource: the source" // in errors

var errNoSource = errors.New("tokensource: Cache.Source is nil")

// begin notes that a call begins with the current token. It returns nil if the flight
// is over.
func (c *Cache) begin(f *flight) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != f {
		return nil
	}
	c.call = &call{flight: f, began: time.Now(), old: c.lease.token}
	return c.call
}

// returned handles what the Source returned. A late token is used, because its refresh
// token may be the only valid one. A late error counts if it says that a login is
// needed, so that the dead refresh token is not sent again. Any other late error is
// ignored, because it says nothing about the current flight.
func (c *Cache) returned(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.call = nil
	late := c.flight != k.flight
	if k.void || k.err != nil && late && !needsLogin(k.err) {
		return
	}
	c.settle(k)
}

// settle ends the flight, if there is one, with the result of a call; c.mu is held.
func (c *Cache) settle(k *call) {
	now, f := time.Now(), c.flight
	event, began := Refresh{Cause: k.flight.cause, Err: k.err}, k.began
	if f != nil {
		event.Cause, event.Waiters, began = f.cause, f.waiters, f.began
	}
	event.Duration = now.Sub(began)
	c.flight = nil
	if k.err != nil {
		c.fail(k.err, began, now)
	} else {
		token := k.token.datedAfter(c.lease.token, k.began)
		c.adopt(token, f != nil && f.cause == Refused, began, now)
	}
	c.publish(now)
	f.land()
	if c.OnRefresh != nil {
		go event.tell(c.OnRefresh)
	}
}

// land ends the wait of the flight's callers, which then look again.
func (f *flight) land() {
	if f != nil {
		close(f.done)
	}
}

// withoutTrace hides the caller's httptrace, which is for the caller's request and not
// for the token request. An empty trace replaces the hooks that package net looks up by
// its own key.
func withoutTrace(ctx context.Context) context.Context {
	empty := &httptrace.ClientTrace{ConnectStart: func(string, string) {}}
	return untraced{httptrace.WithClientTrace(untraced{ctx}, empty)}
}

type untraced struct{ context.Context }

func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

func (c *Cache) timeout() time.Duration { return cmp.Or(max(0, c.Timeout), 30*time.Second) }
