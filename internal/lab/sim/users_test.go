package sim_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// users share a Keyed that has room for a part of them.
type users struct {
	n, room int
	visits  int           // of each
	life    time.Duration // of access tokens
	latency time.Duration // of the token endpoint and the store, at most
	dies    float64       // the probability that a login has ended when its user comes back
	fails   float64       // that a token request fails, or an operation of the store
	stored  bool          // each Cache is over a Stored
}

// drawUsers draws from a stream of its own, see drawServers.
func (p *plan) drawUsers(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 6))
	if r.Float64() > 0.05 {
		return
	}
	n := 2 + r.IntN(40)
	p.users = users{
		n: n, room: 1 + r.IntN(n), visits: 2 + r.IntN(10), life: 1 + time.Duration(r.Int64N(int64(2*time.Minute))),
		latency: 1 + time.Duration(r.Int64N(int64(time.Second))), dies: r.Float64(), stored: r.IntN(2) == 0,
	}
	if r.IntN(2) == 0 {
		p.users.fails = r.Float64() / 3
	}
}

// A user does one thing after the other.
type user struct {
	n      int
	logins []*session
	login  *session  // in effect; nil: none
	doubt  bool      // that, for the last login or logout was not saved, and by the clock it is no later than the one before
	began  time.Time // the last login or logout
	stored *tokensource.Stored
	calls  int       // of the Keyed and of the Source, under way
	left   time.Time // when the last was over
}

// A session is what the server knows of a login, and what has become known of it.
type session struct {
	plain  bool // it has no refresh token
	turn   int  // how often the refresh token has rotated
	dead   bool
	denied bool      // and the client knows
	lost   bool      // the last reply
	until  time.Time // when its last access token ends
}

type userKey struct{}

// A pooled context is one that a framework uses again, for another user.
type pooled struct {
	context.Context
	user atomic.Int64
}

func (p *pooled) Value(key any) any {
	if key == (userKey{}) {
		return int(p.user.Load())
	}
	return p.Context.Value(key)
}

// counted is a Stored whose calls count.
type counted struct {
	*tokensource.Stored
	h *house
	u *user
}

func (c counted) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	return c.h.source(c.u, ctx, old, c.Stored)
}

// stays reports whether the user's key may have had to stay since then; w.mu is held.
func (u *user) stays(since time.Time) bool {
	switch s := u.login; {
	case u.calls > 0 || !u.left.Before(since):
		return true
	case u.stored != nil:
		return u.stored.Pending()
	default:
		return s != nil && (!s.plain && !s.denied || s.until.After(since))
	}
}

var errLost = errors.New("the reply is lost")

// A shaky store fails at times.
type shaky struct{ h *house }

func (s *shaky) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.fails(ctx); err != nil {
		return nil, err
	}
	return s.h.store.Load(ctx, key)
}

func (s *shaky) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if err := s.fails(ctx); err != nil {
		return err
	}
	return s.h.store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if err := s.fails(ctx); err != nil {
				return err
			}
			return errors.Join(save(data), s.fails(ctx)) // the answer may be lost
		})
	})
}

func (s *shaky) fails(ctx context.Context) error {
	d := s.h.draw()
	if err := pause(ctx, d.upTo(s.h.w.users.latency/10+1)); err != nil {
		return err
	}
	if s.h.chance(d) {
		return errStore
	}
	return nil
}
