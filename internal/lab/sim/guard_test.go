package sim_test

import (
	"math"
	"slices"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

// An auth is an Auth, and what it has seen: it tells which refusals need not cause
// a refresh.
type auth struct {
	transport.Auth
	seen     map[*access]time.Time
	accepted map[acceptance]bool
	rows     map[int]*row // by API
	kinds    map[kind]bool
}

// A kind of request is what a server may judge by.
type kind struct {
	api      int
	path     string
	withBody bool
}

// An acceptance is of a token, for a kind of requests.
type acceptance struct {
	kind  kind
	token *access
}

// A row is an API's refusals of second attempts.
type row struct {
	tokens map[*access]bool
	last   time.Time
}

func newAuth() *auth {
	return &auth{
		seen: map[*access]time.Time{}, accepted: map[acceptance]bool{}, rows: map[int]*row{}, kinds: map[kind]bool{},
	}
}

func (c *call) kind() kind { return kind{c.api, c.path, c.content != nil} }

// sees notes when a token was first sent; w.mu is held.
func (a *auth) sees(token *access) {
	if _, known := a.seen[token]; !known {
		a.seen[token] = time.Now()
	}
}

// accepts notes that a token was accepted. That means nothing where a second attempt
// was refused, until one is accepted; w.mu is held.
func (a *auth) accepts(k kind, token *access, again bool) {
	if again {
		delete(a.kinds, k)
		if r := a.rows[k.api]; r != nil {
			clear(r.tokens)
		}
	}
	if !a.kinds[k] {
		a.accepted[acceptance{k, token}] = true
	}
}

// refuses notes that a token was refused. It was revoked if it was accepted before;
// w.mu is held.
func (a *auth) refuses(k kind, token *access, again bool) {
	switch {
	case a.accepted[acceptance{k, token}]:
	case again:
		a.kinds[k] = true
		a.grow(k.api, token)
	case len(a.rows) > 0:
		a.grow(k.api, token)
	}
}

// begin begins a row, for nothing shows a token to be good that a refusal caused;
// w.mu is held.
func (a *auth) begin(api int, token *access) {
	if r := a.rows[api]; r == nil || time.Since(r.last) > lapse {
		a.grow(api, token)
	}
}

// grow begins a row, or lengthens it; w.mu is held.
func (a *auth) grow(api int, token *access) {
	r := a.rows[api]
	if r == nil || time.Since(r.last) > lapse {
		r = &row{tokens: map[*access]bool{}}
		a.rows[api] = r
	}
	r.tokens[token], r.last = true, time.Now()
}

// spares reports whether a refusal of the token may cause no refresh: it is young,
// and refusals were not cured before, there or elsewhere. A token that was accepted
// there has been revoked; w.mu is held.
func (a *auth) spares(k kind, token *access) bool {
	if a.accepted[acceptance{k, token}] {
		return false
	}
	pause := time.Duration(0)
	for api, r := range a.rows {
		switch {
		case time.Since(r.last) > lapse:
		case api != k.api:
			pause = max(pause, shortest)
		default: // how often it has doubled is not counted here
			pause = longest
		}
	}
	return time.Since(a.seen[token]) < pause
}

const (
	shortest = 2 * time.Second
	longest  = 2 * time.Minute
	lapse    = 2 * longest
)

// wasteful returns how many refreshes may be due to refusals of good tokens: many
// origins cause hardly more of them than one, but each begins a row of its own.
func (w *world) wasteful() int {
	longest := slices.Max(w.refusals)
	if w.forbids > 0 || w.sour > 0 {
		longest = w.busy
	}
	if longest == 0 {
		return 0
	}
	return w.auths*(6+int(math.Log2(1+longest.Seconds()))) + w.sour/2 + w.processes[0].others
}
