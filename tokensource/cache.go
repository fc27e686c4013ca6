package tokensource

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"net/http/httptrace"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// A Cache keeps one token of the Source below it, and refreshes it once for
// everybody: when it has expired, when a server has refused it, and early,
// between 55 and 90 percent of its lifetime, while nobody waits.
//
// A refresh belongs to none of its callers: each leaves when its own context
// ends, the refresh goes on for the others, and a refresh token that was
// rotated meanwhile is not lost. There is at most one call of the Source at a
// time.
//
// After a failure the Source is left alone for a while: at first for 0.1 to 0.2
// s, longer by half each time, at most 100 s, or for as long as the server's
// Retry-After says, at most 5 minutes. Meanwhile Token returns the token if it
// is still good, else the remembered error. An error that wraps
// [ErrReauthenticate] is final until [Cache.Set], unless the Source has a Set
// method itself.
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

	// OnRefresh, if not nil, is told of every refresh that ended, once the
	// token is in use: to save tokens, see [Func]. It is called in a goroutine
	// of its own, and may call the Cache. A panic in it is logged with its stack by
	// package log, and goes no further.
	OnRefresh func(Refresh)

	ready atomic.Pointer[ready]
	calls singleflight.Group // of Source: one at a time

	mu       sync.Mutex // guards what follows, and every change of ready
	current  *Token     // nil before the first and after Forget
	login    bool       // current came by Set or Replace: the Source may have no other
	until    time.Time  // current is served until then; zero means for ever
	earlyAt  time.Time  // when to refresh current early; zero means never
	flight   *flight    // the refresh that callers wait for
	calling  bool       // a call of Source has not returned
	epoch    int        // counts Set and Forget: calls begun before are void
	failures int        // refreshes in a row that brought nothing new
	retryAt  time.Time  // Source is left alone until then
	err      error      // what the last refresh ended with
	final    error      // why nothing but Set can help
}

// A Refresh is what [Cache.OnRefresh] is told.
type Refresh struct {
	Cause    Cause
	Duration time.Duration // from the moment the first caller needed it
	Waiters  int           // callers that waited for it; those that left early count too
	Err      error         // nil if a token came
}

// tell calls fn. It runs in a goroutine that no caller can recover.
func (r Refresh) tell(fn func(Refresh)) {
	defer func() {
		if p := recover(); p != nil {
			log.Printf("tokensource: Cache.OnRefresh panicked: %v\n%s", p, debug.Stack())
		}
	}()
	fn(r)
}

// A Cause is why a token was refreshed.
type Cause string

// The causes of a refresh.
const (
	Expired Cause = "expired" // there was no good token
	Early   Cause = "early"   // the token had passed a part of its life
	Refused Cause = "refused" // a server refused the token
)

// ready is what Token returns without a lock, until the moment named; zero
// means for ever.
type ready struct {
	token *Token
	until time.Time
}

// A flight is a refresh as its callers see it.
type flight struct {
	cause   Cause
	began   time.Time
	waiters int
	held    bool // callers that would take any good token wait, too

	done  chan struct{} // closed at the end, when the next two are set
	token *Token
	err   error
}

// A call is one call of the Source. It outlives its flight if the Source
// ignores its context.
type call struct {
	epoch int
	cause Cause
	began time.Time
	token *Token
	err   error
}

// errSuperseded tells those who wait that Set or Forget was called: look again.
var errSuperseded = errors.New("tokensource: superseded")

// Token returns the current token if it is good and another one than old.
// Otherwise it waits for a refresh, until ctx ends. It returns old again if the
// Source has no other.
//
// While a refresh runs because a server refused the token, everybody waits for
// it, provided that the one before succeeded. If it fails, callers without old
// get the current token as long as it is good.
//
// The error is ctx's, the Source's, or one that wraps context.DeadlineExceeded
// when Timeout has passed.
func (c *Cache) Token(ctx context.Context, old *Token) (*Token, error) {
	if token := c.atOnce(old); token != nil {
		return token, nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		token, f, err := c.look(ctx, old)
		if f == nil {
			return token, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.done:
		}
		switch {
		case f.err == errSuperseded:
		case f.err != nil:
			if token := c.Peek(ctx, old); token != nil {
				return token, nil
			}
			return nil, f.err
		default:
			return f.token, nil
		}
	}
}

// atOnce returns what Token may return without a lock and without its ctx; nil if
// it must look.
func (c *Cache) atOnce(old *Token) *Token {
	if r := c.ready.Load(); r != nil && !r.token.same(old) && (r.until.IsZero() || time.Until(r.until) > 0) {
		return r.token
	}
	return nil
}

// Peek returns the current token if it is good and another one than old, else
// nil. It neither waits nor asks the Source.
func (c *Cache) Peek(_ context.Context, old *Token) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.usable(time.Now()) && !c.current.same(old) {
		return c.current
	}
	return nil
}

// look decides: a token or an error at once, or a flight to wait for.
func (c *Cache) look(ctx context.Context, old *Token) (*Token, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	refused := c.current.same(old)
	usable := c.usable(now)
	switch {
	case usable && !refused && !c.holding():
		if at := c.nextEarly(); !at.IsZero() && !now.Before(at) {
			c.start(ctx, Early, now)
		}
		c.publish(now)
		return c.current, nil, nil
	case c.flight != nil:
	case c.final != nil:
		return nil, nil, c.final
	case now.Before(c.retryAt) && c.err == nil:
		return c.current, nil, nil
	case now.Before(c.retryAt):
		return nil, nil, c.err
	case usable && refused:
		c.start(ctx, Refused, now)
	default:
		c.start(ctx, Expired, now)
	}
	return nil, c.join(refused, now), nil
}

// usable reports whether current may be served at now; c.mu is held.
func (c *Cache) usable(now time.Time) bool {
	return c.current != nil && c.current.AccessToken != "" && (c.until.IsZero() || now.Before(c.until))
}

// holding reports whether everybody waits for the flight; c.mu is held.
func (c *Cache) holding() bool { return c.flight != nil && c.flight.held }

// start begins a flight; c.mu is held.
func (c *Cache) start(ctx context.Context, cause Cause, now time.Time) {
	ctx, cancel := context.WithTimeout(withoutTrace(context.WithoutCancel(ctx)), c.timeout())
	c.flight = &flight{cause: cause, began: now, done: make(chan struct{})}
	go c.fly(ctx, cancel, c.flight)
}

// withoutTrace hides an httptrace of the caller's: it is for the caller's request,
// not for the token endpoint's. An empty one takes the place of the hooks that
// package net looks up by a key of its own.
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

// join returns the flight to wait for; c.mu is held.
func (c *Cache) join(refused bool, now time.Time) *flight {
	c.flight.waiters++
	if refused && c.failures == 0 {
		c.flight.held = true
		c.publish(now)
	}
	return c.flight
}

// fly has the Source called until the flight is over: again if the call that was
// under way had begun before a Set or Forget.
func (c *Cache) fly(ctx context.Context, cancel context.CancelFunc, f *flight) {
	defer cancel()
	for ctx.Err() == nil {
		called := c.calls.DoChan("", func() (any, error) {
			var call sync.WaitGroup
			call.Go(func() { c.invoke(ctx, f) }) // singleflight's own may not end by runtime.Goexit
			call.Wait()
			return nil, nil
		})
		select {
		case <-f.done:
			return
		case <-called:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight == f {
		c.settle(f.cause, f.began, nil, fmt.Errorf("tokensource: no token came within %v: %w", c.timeout(), ctx.Err()))
	}
}

// invoke calls the Source, in a goroutine that it may end or never let go.
func (c *Cache) invoke(ctx context.Context, f *flight) {
	k, old := c.begin(f)
	if k == nil {
		return
	}
	defer c.returned(k)
	defer func() {
		if r := recover(); r != nil {
			k.err = fmt.Errorf("tokensource: the source panicked: %v", r)
		}
	}()
	k.err = errors.New("tokensource: the source called runtime.Goexit")
	if c.Source == nil {
		k.err = errors.New("tokensource: Cache.Source is nil")
		return
	}
	k.token, k.err = c.Source.Token(ctx, old)
	k.err = sound(k.err)
}

// begin notes that a call begins, with the current token; nil if the flight is over.
func (c *Cache) begin(f *flight) (*call, *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != f {
		return nil, nil
	}
	c.calling = true
	return &call{epoch: c.epoch, cause: f.cause, began: time.Now()}, c.current
}

// returned takes what the Source returned. A token is welcome even if nobody
// waits any more, for its refresh token may be the only one that works, and so is
// the news that a login is needed: the dead refresh token is not sent again.
func (c *Cache) returned(k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calling = false
	if k.epoch != c.epoch || k.err != nil && c.flight == nil && !needsLogin(k.err) {
		return
	}
	if k.err == nil {
		k.err = k.token.check()
	}
	if k.err == nil {
		k.token = k.token.withLifetime(k.began)
	}
	began := k.began
	if c.flight != nil {
		began = c.flight.began
	}
	c.settle(k.cause, began, k.token, k.err)
}

// settle ends the flight, if there is one, with a token or an error; c.mu is held.
func (c *Cache) settle(cause Cause, began time.Time, token *Token, err error) {
	now := time.Now()
	event := Refresh{Cause: cause, Duration: now.Sub(began), Err: err}
	if err == nil {
		c.adopt(token, began, now)
	} else {
		c.fail(err, now)
	}
	f := c.flight
	c.flight = nil
	c.publish(now) // before those who waited can ask again
	if f != nil {
		event.Cause, event.Waiters = f.cause, f.waiters
		f.land(token, err)
	}
	if c.OnRefresh != nil {
		go event.tell(c.OnRefresh)
	}
}

// land tells those who wait how the flight ended.
func (f *flight) land(token *Token, err error) {
	f.token, f.err = token, err
	close(f.done)
}

// adopt takes what the Source gave; c.mu is held. A token that is not new, or
// has expired already, is served all the same, for clocks may be wrong; the
// Source is then asked again as rarely as after a failure.
func (c *Cache) adopt(token *Token, began, now time.Time) {
	paced := token.RefreshAt.After(now) // the Source says itself when to ask again
	refused := c.flight != nil && c.flight.cause == Refused
	stale := token.same(c.current) && (refused || !paced) || !token.good(now)
	c.login = c.login && token.same(c.current)
	c.replace(token, began, now)
	c.err, c.final = nil, nil
	if !stale {
		c.failures, c.retryAt = 0, time.Time{}
		return
	}
	c.space(now, 0)
	if paced && token.RefreshAt.Before(c.retryAt) {
		c.retryAt = token.RefreshAt
	}
	if !token.good(now) {
		c.until = c.retryAt
	}
}

// replace makes token, asked for at began, the current one; c.mu is held.
func (c *Cache) replace(token *Token, began, now time.Time) {
	c.current, c.until, c.earlyAt = token, token.Expiry, token.drawEarly(began, now)
}

// fail remembers a failure; c.mu is held.
func (c *Cache) fail(err error, now time.Time) {
	c.err = err
	if _, ok := c.Source.(setter); !ok && needsLogin(err) {
		c.final = err
		return
	}
	var floor time.Duration
	if e, ok := errors.AsType[*EndpointError](err); ok && e != nil {
		floor = e.RetryAfter
	}
	c.space(now, floor)
}

// space draws how long the Source is left alone; c.mu is held. These numbers
// meet both one client's short outage and a fleet's, and the stretch keeps a
// fleet apart that was told the same Retry-After.
func (c *Cache) space(now time.Time, floor time.Duration) {
	wait := min(0.2*math.Pow(1.5, float64(c.failures)), 100) * (0.5 + 0.5*rand.Float64())
	least := min(floor, 4*time.Minute).Seconds() * (1 + 0.25*rand.Float64())
	c.failures++
	c.retryAt = now.Add(time.Duration(max(wait, least) * float64(time.Second)))
}

// nextEarly returns when an early refresh may begin; zero means not as things
// are. c.mu is held.
func (c *Cache) nextEarly() time.Time {
	if c.flight != nil || c.final != nil || c.earlyAt.IsZero() {
		return time.Time{}
	}
	return later(c.earlyAt, c.retryAt)
}

// publish tells what Token may return without a lock; c.mu is held.
func (c *Cache) publish(now time.Time) {
	if !c.usable(now) || c.holding() {
		c.ready.Store(nil)
		return
	}
	until := c.until
	if at := c.nextEarly(); !at.IsZero() && (until.IsZero() || at.Before(until)) {
		until = at
	}
	c.ready.Store(&ready{c.current, until})
}

// Set makes token the current one, after a login. It ends a refresh in flight
// and wins over it; those who wait look again. A token with a refresh token
// alone is exchanged at the next call of Token. The token is handed on to a
// Source that has a Set method, whose error is returned; then the token is used
// all the same, and the Source is asked soon, so that it may save it.
func (c *Cache) Set(ctx context.Context, token *Token) error {
	if err := checkLogin(token); err != nil {
		return err
	}
	c.mu.Lock()
	c.reset(token, nil)
	epoch := c.epoch
	c.mu.Unlock()
	s, ok := c.Source.(setter)
	if !ok {
		return nil
	}
	err := s.Set(ctx, token)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.epoch == epoch && c.current != nil { // ask soon, so that Source may save it
		now := time.Now()
		c.earlyAt = now.Add(unsavedPause)
		c.publish(now)
	}
	return err
}

// Replace makes next the current token if old still is, and nothing is about to
// replace it: for a token that a server has sent along with an answer to old.
// Without a refresh token of its own it keeps the current one. Otherwise Replace
// does nothing and returns nil: next may be older than what has come since. A
// Source that has a Replace method is told, or else by its Set method, and its
// error is returned.
func (c *Cache) Replace(ctx context.Context, old, next *Token) error {
	if err := checkLogin(next); err != nil {
		return err
	}
	if old == nil {
		return errors.New("tokensource: Replace needs two tokens")
	}
	kept := c.replaced(old, *next)
	if kept == nil {
		return nil
	}
	switch s := c.Source.(type) {
	case replacer:
		return s.Replace(ctx, old, kept)
	case setter:
		return s.Set(ctx, kept)
	}
	return nil
}

// replaced returns next as it is kept; nil if it is not.
func (c *Cache) replaced(old *Token, next Token) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.current.same(old) || c.flight != nil || c.calling {
		return nil
	}
	final := c.final
	if next.RefreshToken != "" {
		final = nil
	} else {
		next.RefreshToken = c.current.RefreshToken // dead, if final says so
	}
	c.reset(&next, final)
	return &next
}

// Forget drops the token, after a logout. It ends a refresh in flight and wins
// over it. Until Set, Token returns [ErrReauthenticate] and the Source is not
// asked. A Source that has a Forget method, as [Stored], is told, and its error
// is returned. From then on it answers itself, for the next login may take place
// in another process.
func (c *Cache) Forget(ctx context.Context) error {
	c.mu.Lock()
	c.reset(nil, ErrReauthenticate)
	epoch := c.epoch
	c.mu.Unlock()
	s, ok := c.Source.(forgetter)
	if !ok {
		return nil
	}
	err := s.Forget(ctx)
	_, keeps := s.(keeper) // remembers it even so, and saves it with the next call
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch && (err == nil || keeps) {
		c.final = nil
	}
	return err
}

// reset begins anew with token, or with the reason why there is none; c.mu is held.
func (c *Cache) reset(token *Token, final error) {
	now := time.Now()
	c.epoch++
	if f := c.flight; f != nil {
		c.flight = nil
		f.land(nil, errSuperseded)
	}
	c.current, c.until, c.earlyAt = nil, time.Time{}, time.Time{}
	c.login = token != nil
	if token != nil {
		c.replace(token.withLifetime(now), now, now)
	}
	c.failures, c.retryAt, c.err, c.final = 0, time.Time{}, nil, final
	c.publish(now)
}

// expendable reports whether nothing is under way, and nothing would be lost with the
// Cache: no refresh token that may work, and no good token of a login that the Source
// was not told of.
func (c *Cache) expendable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil || c.calling {
		return false
	}
	if k, ok := c.Source.(keeper); ok {
		return !k.Pending()
	}
	dead := c.err != nil && needsLogin(c.err)
	if !dead && c.current != nil && c.current.RefreshToken != "" {
		return false
	}
	_, told := c.Source.(setter)
	return !c.current.good(time.Now()) || !dead && (told || !c.login)
}

// Format writes the type of Source, whatever the verb: no secret, and nothing
// that changes meanwhile.
func (c *Cache) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "cache of %T", c.Source) }

func (c *Cache) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return 30 * time.Second
}

// drawEarly draws the moment of the early refresh of a token that was asked for
// at began. The wide window spreads a fleet that was started together.
func (t *Token) drawEarly(began, now time.Time) time.Time {
	switch {
	case t.RefreshAt.After(now):
		return t.RefreshAt
	case t.Expiry.IsZero():
		return time.Time{}
	}
	life := float64(t.Expiry.Sub(began))
	return began.Add(time.Duration(life * (0.55 + 0.35*rand.Float64())))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
