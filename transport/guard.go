package transport

import (
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/tokensource"
)

// A guard keeps refusals that no token cures from causing a refresh each.
//
//   - A refusal is cured if the token that it causes is accepted where the one
//     before was refused, by an answer below 400: other errors prove no token.
//     As long as refusals are cured, each causes a refresh at once.
//   - A refusal whose new token is refused, too, begins a row at its origin. In a
//     row, a refusal causes a refresh only if its token was first seen 2 s ago or
//     earlier. Each new token that is refused there doubles that time, up to 2
//     minutes; a refusal that is cured makes it 2 s.
//   - A token is excepted that was accepted there for the same method and path: if
//     it is refused now, it was revoked. But not if a new token was refused for
//     that method and path, until a refusal there is cured.
//   - While there is a row anywhere, the 2 s apply to all other origins, so that
//     ten origins that refuse everything cause hardly more refreshes than one.
//   - A row ends 4 minutes after it grew last.
//
// The guard limits refreshes, not tokens: it is asked only if the one good token
// of the Source is the refused one. The Cache could not do this: there, an API
// that refuses everything would starve the others.
type guard struct {
	watching atomic.Bool // there are rows, or a token is on trial: else nothing is looked up

	mu     sync.Mutex // guards what follows
	trial  time.Time  // when a refusal last caused a token
	rows   map[origin.Origin]row
	kinds  map[kind]bool       // a new token was refused there: what else is accepted proves nothing
	proven map[sighting]bool   // the token was accepted; also for any kind, and any origin
	seen   map[uint64]firstSaw // tokens, as hashes so that none is kept; it outlives rows
}

// A row is an origin's refusals that were not cured.
type row struct {
	length int
	last   time.Time // when it grew
}

// firstSaw is when a token was first seen, or was replaced or caused by a refusal.
type firstSaw struct {
	at      time.Time
	caused  bool
	untried bool // its request was not sent again with it, or in vain
}

// A kind of request is a method and a path at an origin, as a hash. Zero stands
// for any.
type kind struct {
	origin origin.Origin
	hash   uint64
}

// A sighting is a token with a kind of request.
type sighting struct {
	kind  kind
	token uint64
}

// Bounds of the guard.
const (
	shortestPause = 2 * time.Second
	longestPause  = 2 * time.Minute
	maxRows       = 256
	maxSightings  = 4096
	maxTokens     = 16384
)

var seed = maphash.MakeSeed()

func hashOf(token *tokensource.Token) uint64 { return maphash.String(seed, token.AccessToken) }

func kindOf(req *http.Request) kind {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(req.Method)
	h.WriteString(req.URL.Path)
	return kind{origin.Of(req.URL), h.Sum64()}
}

// see notes when a token was first seen, whether there is a row or not: it may be
// old when the first begins.
func (g *guard) see(token *tokensource.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.seen[hashOf(token)]; !known {
		g.note(token, firstSaw{at: time.Now()})
	}
}

// caused notes that the refusal of a token caused the next.
func (g *guard) caused(old, next *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	g.trial = time.Now()
	g.note(old, firstSaw{at: g.trial}) // in case its Source hands it out again
	saw := g.seen[hashOf(next)]
	if saw.caused && !clock.Passed(g.trial, saw.at.Add(shortestPause)) {
		return // many callers get one token
	}
	g.note(next, firstSaw{at: g.trial, caused: true})
}

// untried notes that nothing is known of a token that a refusal caused: the next
// request with it tells.
func (g *guard) untried(token *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	saw := g.seen[hashOf(token)]
	saw.untried = true
	g.note(token, saw)
}

// allows reports whether the refusal of a token may cause a refresh.
func (g *guard) allows(req *http.Request, token *tokensource.Token) bool {
	if !g.enter(false) {
		return true
	}
	defer g.mu.Unlock()
	k, h := kindOf(req), hashOf(token)
	if g.proven[sighting{k, h}] {
		return true
	}
	seen := g.seen[h]
	bad := seen.untried && !g.proven[sighting{token: h}]
	if bad || len(g.rows) > 0 && seen.caused && !g.proven[sighting{kind{origin: k.origin}, h}] {
		g.grow(k.origin, seen.at)
	}
	return len(g.rows) == 0 || clock.Passed(time.Now(), seen.at.Add(g.rows[k.origin].pause()))
}

// accepted notes that a response did not refuse the token.
func (g *guard) accepted(req *http.Request, token *tokensource.Token) {
	if !g.enter(false) {
		return
	}
	defer g.mu.Unlock()
	if k := kindOf(req); !g.kinds[k] {
		g.prove(k, token)
	}
}

// cured notes that a token was accepted for a request that was refused before.
func (g *guard) cured(req *http.Request, token *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	k := kindOf(req)
	delete(g.kinds, k)
	g.prove(k, token)
	if r, known := g.rows[k.origin]; known {
		g.rows[k.origin] = row{1, r.last}
	}
}

// uncured notes that a token was refused that the refusal of this request caused.
func (g *guard) uncured(req *http.Request, token *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	k, h := kindOf(req), hashOf(token)
	if g.proven[sighting{k, h}] {
		return // it has been revoked since it came
	}
	put(g.kinds, maxSightings, k, true)
	g.grow(k.origin, g.seen[h].at)
}

// enter takes the lock and ends what has had its time. If nothing is left to
// watch, it begins anew, or else reports false and has not taken the lock.
func (g *guard) enter(begin bool) bool {
	if !begin && !g.watching.Load() {
		return false
	}
	g.mu.Lock()
	now := time.Now()
	for o, r := range g.rows {
		if clock.Passed(now, r.last.Add(2*longestPause)) {
			delete(g.rows, o)
		}
	}
	if len(g.rows) == 0 && clock.Passed(now, g.trial.Add(shortestPause)) {
		g.watching.Store(begin)
		if !begin {
			g.mu.Unlock()
			return false
		}
		g.rows, g.kinds, g.proven = make(map[origin.Origin]row), make(map[kind]bool), make(map[sighting]bool)
	}
	return true
}

// grow begins a row, or doubles its pause, because of a token that came at since:
// once for each token, which many requests have. g.mu is held.
func (g *guard) grow(o origin.Origin, since time.Time) {
	r := g.rows[o]
	if !since.After(r.last) {
		return
	}
	put(g.rows, maxRows, o, row{r.length + 1, time.Now()})
}

// prove notes that a token was accepted; g.mu is held.
func (g *guard) prove(k kind, token *tokensource.Token) {
	for _, where := range []kind{k, {origin: k.origin}, {}} {
		put(g.proven, maxSightings, sighting{where, hashOf(token)}, true)
	}
}

// note notes a token; g.mu is held.
func (g *guard) note(token *tokensource.Token, saw firstSaw) {
	if g.seen == nil {
		g.seen = make(map[uint64]firstSaw)
	}
	put(g.seen, maxTokens, hashOf(token), saw)
}

// pause is how long ago a token must have been seen first.
func (r row) pause() time.Duration {
	return min(shortestPause<<max(0, min(r.length-1, 10)), longestPause)
}

// put sets a value, and keeps the map within a bound.
func put[K comparable, V any](m map[K]V, most int, key K, value V) {
	if _, known := m[key]; !known {
		for k := range m {
			if len(m) < most {
				break
			}
			delete(m, k)
		}
	}
	m[key] = value
}
