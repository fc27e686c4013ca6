package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A policy is when tokens are refreshed.
type policy struct {
	name string

	// draw tells how long after it was asked for a token is refreshed. Nil
	// leaves it to the Cache, else the token endpoint says so by RefreshAt.
	draw func(life time.Duration) time.Duration

	// forgetful puts a Source in place of the Cache that remembers no failure.
	forgetful bool
}

// own is what is proved. The others are what other libraries do, as far as the
// moment of the refresh goes.
var (
	own      = policy{name: "0.55 to 0.90 of its life (the Cache)"}
	google   = policy{name: "3 min 45 s before expiry (`cloud.google.com/go/auth`)", draw: before(225 * time.Second)}
	atExpiry = policy{name: "at expiry", draw: before(0)}
	xoauth2  = policy{name: "10 s before expiry, failures not remembered (`x/oauth2`)", draw: before(10 * time.Second), forgetful: true}

	others = []policy{
		{name: "0.8 of its life", draw: between(0.8, 0.8)},
		{name: "5 min before expiry (`azcore`)", draw: before(5 * time.Minute)},
		google,
		{name: "10 s before expiry", draw: before(10 * time.Second)},
		atExpiry,
		xoauth2,
	}
)

// between is a window that begins and ends with these parts of the life.
func between(from, to float64) func(time.Duration) time.Duration {
	return func(life time.Duration) time.Duration {
		return time.Duration((from + (to-from)*rand.Float64()) * float64(life))
	}
}

// windowed is the policy of a window on the real Cache.
func windowed(from, to float64) policy {
	return policy{name: fmt.Sprintf("%.2f to %.2f", from, to), draw: between(from, to)}
}

// before is a fixed moment before the expiry.
func before(expiry time.Duration) func(time.Duration) time.Duration {
	return func(life time.Duration) time.Duration { return life - expiry }
}

// fits reports whether a token that lives so long is good for some time before
// it is refreshed.
func (p policy) fits(life time.Duration) bool { return p.draw == nil || p.draw(life) > 0 }

// over returns the Source of one replica.
func (p policy) over(endpoint tokensource.Func) tokensource.Source {
	if p.forgetful {
		return &forgetful{source: endpoint}
	}
	return &tokensource.Cache{Source: endpoint}
}

// A forgetful Source asks for a token with each request that finds none, as
// x/oauth2's ReuseTokenSource does: after a failure, too.
type forgetful struct {
	source tokensource.Source
	token  *tokensource.Token // of one caller at a time
}

func (s *forgetful) Token(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
	if s.token != nil && time.Now().Before(s.token.RefreshAt) {
		return s.token, nil
	}
	token, err := s.source.Token(ctx, s.token)
	if err == nil {
		s.token = token
	}
	return token, err
}
