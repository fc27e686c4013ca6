package guard

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/tokensource"
)

// A Guard limits the refreshes that refusals cause when no token helps.
//
//   - A refusal is cured if the token that it causes is accepted, by an answer without
//     an error, for the request that was refused. Other errors prove nothing about the
//     token. As long as refusals are cured, each causes a refresh at once.
//   - A refusal whose new token is refused as well begins a row at its origin. In a
//     row, a refusal causes a refresh only if its token was first seen at least 2 s
//     ago. Each new token that is refused there doubles this pause, up to 2 minutes. A
//     cured refusal resets it to 2 s.
//   - A token that was accepted there for the same kind of request is exempt: if it is
//     refused now, it was revoked. The exemption does not apply once a new token was
//     refused for that kind, until a refusal there is cured.
//   - While any origin has a row, the pause of 2 s applies to all other origins, so
//     that ten origins that refuse everything cause hardly more refreshes than one.
//   - A row ends 4 minutes after it last grew.
//
// The Guard limits refreshes, not tokens: an [Asker] asks it only if the refused token
// is the only good one of the Source. The Cache could not do this, because an API that
// refuses everything would then starve the others.
type Guard struct {
	watching atomic.Bool // there are rows or a token on trial; otherwise nothing is looked up

	mu     sync.Mutex // guards what follows
	trial  time.Time  // when a refusal last caused a token
	trials int        // requests on their way with such a token
	rows   map[origin.Origin]row
	kinds  map[Kind]bool       // a new token was refused there: other accepted tokens prove nothing
	proven map[sighting]bool   // the token was accepted; has entries for any kind and any origin, too
	seen   map[uint64]firstSaw // tokens, as hashes so that no secret is kept; it outlives rows
}

// A row is the uncured refusals of an origin.
type row struct {
	length int
	last   time.Time // when it grew
}

// firstSaw is when a token was first seen, was replaced, or was caused by a refusal.
type firstSaw struct {
	at      time.Time
	caused  bool
	untried bool // no request was sent again with it, or without success
}

// A Kind of request is what a server may accept a token for, such as a method and a
// path, at an origin. It is kept as a hash. Zero stands for any.
type Kind struct {
	origin origin.Origin
	hash   uint64
}

// KindOf returns the kind of the requests to an origin that have these parts.
func KindOf(o origin.Origin, parts ...string) Kind {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		h.WriteString(part)
	}
	return Kind{o, h.Sum64()}
}

// A sighting is a token at a kind of request.
type sighting struct {
	kind  Kind
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

// see notes when a token was first seen, even if there is no row: the token may be old
// when the first row begins.
func (g *Guard) see(token *tokensource.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.seen[hashOf(token)]; !known {
		g.note(token, firstSaw{at: time.Now()})
	}
}

// caused notes that the refusal of token old caused token next.
func (g *Guard) caused(old, next *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	g.trials++
	g.trial = time.Now()
	g.note(old, firstSaw{at: g.trial}) // in case its Source returns it again
	saw := g.seen[hashOf(next)]
	if saw.caused && !clock.Passed(g.trial, saw.at.Add(shortestPause)) {
		return // many callers get the same token
	}
	g.note(next, firstSaw{at: g.trial, caused: true})
}

// Tried notes that a request is over whose refusal caused a token.
func (g *Guard) Tried() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trials--
}

// Untried notes that nothing is known of a token that a refusal caused. The next
// request with it decides.
func (g *Guard) Untried(token *tokensource.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	saw := g.seen[hashOf(token)]
	saw.untried = true
	g.note(token, saw)
}

// allows reports whether the refusal of a token may cause a refresh.
func (g *Guard) allows(k Kind, token *tokensource.Token) bool {
	if !g.enter(false) {
		return true
	}
	defer g.mu.Unlock()
	h := hashOf(token)
	if g.proven[sighting{k, h}] {
		return true
	}
	seen := g.seen[h]
	bad := seen.untried && !g.proven[sighting{token: h}]
	if bad || len(g.rows) > 0 && seen.caused && !g.proven[sighting{Kind{origin: k.origin}, h}] {
		g.grow(k.origin, seen.at)
	}
	return len(g.rows) == 0 || clock.Passed(time.Now(), seen.at.Add(g.rows[k.origin].pause()))
}

// Watches reports whether it matters which tokens are accepted. If not, Accepted has
// nothing to do.
func (g *Guard) Watches() bool { return g.watching.Load() }

// Accepted notes that a response did not refuse the token.
func (g *Guard) Accepted(k Kind, token *tokensource.Token) {
	if !g.enter(false) {
		return
	}
	defer g.mu.Unlock()
	if !g.kinds[k] {
		g.prove(k, token)
	}
}

// Cured notes that a token was accepted for a request that was refused before.
func (g *Guard) Cured(k Kind, token *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	delete(g.kinds, k)
	g.prove(k, token)
	if r, known := g.rows[k.origin]; known {
		g.rows[k.origin] = row{1, r.last}
	}
}

// Uncured notes that a token was refused although the refusal of this request caused
// it.
func (g *Guard) Uncured(k Kind, token *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	h := hashOf(token)
	if g.proven[sighting{k, h}] {
		return // it has been revoked since it came
	}
	Put(g.kinds, maxSightings, k, true)
	g.grow(k.origin, g.seen[h].at)
}

// enter takes the lock and removes expired rows. If nothing is left to watch, enter
// starts watching anew if begin is set; otherwise it returns false without the lock.
func (g *Guard) enter(begin bool) bool {
	if !begin && !g.Watches() {
		return false
	}
	g.mu.Lock()
	now := time.Now()
	for o, r := range g.rows {
		if clock.Passed(now, r.last.Add(2*longestPause)) {
			delete(g.rows, o)
		}
	}
	if len(g.rows) == 0 && g.trials == 0 && clock.Passed(now, g.trial.Add(shortestPause)) {
		g.watching.Store(begin)
		if !begin {
			g.mu.Unlock()
			return false
		}
		g.rows, g.kinds, g.proven = make(map[origin.Origin]row), make(map[Kind]bool), make(map[sighting]bool)
	}
	return true
}

// grow begins a row or doubles its pause, because of a token that came at since. It
// does so once for each token, however many requests carry it. g.mu is held.
func (g *Guard) grow(o origin.Origin, since time.Time) {
	r := g.rows[o]
	if since.After(r.last) {
		Put(g.rows, maxRows, o, row{r.length + 1, time.Now()})
	}
}

// prove notes that a token was accepted; g.mu is held.
func (g *Guard) prove(k Kind, token *tokensource.Token) {
	for _, where := range []Kind{k, {origin: k.origin}, {}} {
		Put(g.proven, maxSightings, sighting{where, hashOf(token)}, true)
	}
}

// note notes a token; g.mu is held.
func (g *Guard) note(token *tokensource.Token, saw firstSaw) {
	if g.seen == nil {
		g.seen = make(map[uint64]firstSaw)
	}
	Put(g.seen, maxTokens, hashOf(token), saw)
}

// pause returns how long ago a token must have been first seen.
func (r row) pause() time.Duration {
	return min(shortestPause<<max(0, min(r.length-1, 10)), longestPause)
}

// Put sets a value and keeps the map within a bound by removing other entries.
func Put[K comparable, V any](m map[K]V, most int, key K, value V) {
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
