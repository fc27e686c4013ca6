package tokensource

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// good reports whether the access token should work at now.
func (t *Token) good(now time.Time) bool {
	return t != nil && t.AccessToken != "" && !lapsed(now, t.Expiry)
}

// lapsed reports whether t has come by the monotonic or the wall clock; zero means
// never.
func lapsed(now, t time.Time) bool { return !t.IsZero() && clock.Passed(now, t) }

// withLifetime returns t with an Expiry if it has none but is a JWT that states its
// lifetime. The lifetime counts from began by the local clock, because exp is in terms
// of the server's clock, which may differ. The signature is not checked: only the API
// can do that.
func (t *Token) withLifetime(began time.Time) *Token {
	if !t.Expiry.IsZero() {
		return t
	}
	_, life := t.claimedLife(began)
	if life <= 0 {
		return t
	}
	dated := *t
	dated.Expiry = began.Add(life)
	return &dated
}

// datedAfter is withLifetime for a token that may be the same as before. The lifetime
// of such a token does not start again.
func (t *Token) datedAfter(before *Token, began time.Time) *Token {
	if !t.same(before) || !t.Expiry.IsZero() {
		return t.withLifetime(began)
	}
	dated := *t
	dated.Expiry = before.Expiry
	return &dated
}

// atLogin is withLifetime for a token that may have been issued long ago, such as one
// read from a disk. It expires at its exp by the local clock, and at most its whole
// lifetime from now.
func (t *Token) atLogin(now time.Time) *Token {
	issued, life := t.claimedLife(now)
	if !t.Expiry.IsZero() || life == 0 {
		return t
	}
	dated := *t
	dated.Expiry = now.Add(min(life, issued.Add(life).Sub(now)))
	return &dated
}

// claimedLife returns when a JWT says that it was issued, and its lifetime: exp less
// iat. Both are zero if the token is no JWT or does not say. If there is no iat, now
// replaces it, and the lifetime is negative if it has ended.
func (t *Token) claimedLife(now time.Time) (issued time.Time, life time.Duration) {
	if strings.Count(t.AccessToken, ".") != 2 {
		return time.Time{}, 0
	}
	// Claims as a map: neither another claim of an unexpected type nor an algorithm
	// that this process cannot verify does harm.
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(t.AccessToken, claims)
	if err != nil && !errors.Is(err, jwt.ErrTokenUnverifiable) {
		return time.Time{}, 0
	}
	exp, _ := claims.GetExpirationTime()
	iat, _ := claims.GetIssuedAt()
	switch {
	case exp == nil:
		return time.Time{}, 0
	case iat == nil:
		return now, min(exp.Sub(now), maxLifetime)
	}
	return iat.Time, max(0, min(exp.Sub(iat.Time), maxLifetime))
}

// maxLifetime keeps absurd lifetimes within what a time.Duration can count.
const maxLifetime = 30 * 365 * 24 * time.Hour

// A lease is a token and its moments, which come by either clock; zero means never.
type lease struct {
	token *Token
	until time.Time // the token's Expiry
	early time.Time // when to refresh it early
	login bool      // it came by Set or Replace: the Source may have no other
}

// newLease draws the moment of the early refresh of a token that was requested at
// began. The wide window spreads the refreshes of processes that started together.
func newLease(t *Token, began, now time.Time) lease {
	l := lease{token: t, until: clock.Anchor(now, t.Expiry)}
	switch {
	case !clock.Passed(now, t.RefreshAt):
		l.early = clock.Anchor(now, t.RefreshAt)
	case !l.until.IsZero():
		life := float64(l.until.Sub(began))
		l.early = began.Add(time.Duration(life * (0.55 + 0.35*rand.Float64())))
	}
	return l
}

// nextLook draws the moment of the next look, which spreads processes that got the
// token together.
func nextLook(now time.Time) time.Time { return now.Add(20*time.Second + rand.N(10*time.Second)) }

// good reports whether the token should work at now.
func (l *lease) good(now time.Time) bool {
	return l.token != nil && l.token.AccessToken != "" && !lapsed(now, l.until)
}

// extends reports whether l ends later than before by more than a Source's rounding
// error.
func (l *lease) extends(before *lease) bool {
	return l.until.Sub(before.until) > time.Second
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
