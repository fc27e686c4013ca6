package transport

import (
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/tokensource"
)

// A guard keeps refusals that no token cures from causing a refresh each.
//
//   - A refusal is cured if the token that it causes is accepted where the one
//     before was refused, by an answer below 400: other errors prove no token.
//     As long as refusals are cured, each causes a refresh at once.
//   - A refusal that is not cured begins a row at its origin. In a row, a refusal
//     causes a refresh only if its token was first seen 2 s ago or earlier. Each
//     new token that is refused there doubles that time, up to 2 minutes; a
//     refusal that is cured makes it 2 s again.
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
	proven map[sighting]bool   // the token was accepted
	seen   map[uint64]firstSaw // tokens, as hashes so that none is kept
}

// A row is an origin's refusals that were not cured.
type row struct {
	length int
	last   time.Time // when it grew
}

// firstSaw is when a token was first seen, and whether a refusal caused it.
type firstSaw struct {
	at     time.Time
	caused bool
}

// A kind of request is a method and a path at an origin, as a hash.
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
)

var seed = maphash.MakeSeed()

func hashOf(token *tokensource.Token) uint64 { return maphash.String(seed, token.AccessToken) }

func kindOf(req *http.Request) kind {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(req.Method)
	h.WriteByte(' ')
	h.WriteString(req.URL.Path)
	return kind{origin.Of(req.URL), h.Sum64()}
}

// see notes when a token was first seen.
func (g *guard) see(token *tokensource.Token) {
	if !g.enter(false) {
		return
	}
	defer g.mu.Unlock()
	g.note(token, firstSaw{at: time.Now()})
}

// caused notes that the refusal of a token caused the next.
func (g *guard) caused(old, next *tokensource.Token) {
	g.enter(true)
	defer g.mu.Unlock()
	g.trial = time.Now()
	g.note(old, firstSaw{}) // long ago, if it comes back
	g.note(next, firstSaw{g.trial, true})
}

// allows reports whether the refusal of a token may cause a refresh.
func (g *guard) allows(req *http.Request, token *tokensource.Token) bool {
	if !g.enter(false) {
		return true
	}
	defer g.mu.Unlock()
	k, h := kindOf(req), hashOf(token)
	seen, known := g.seen[h]
	if len(g.rows) == 0 || g.proven[sighting{k, h}] || !known { // unknown: it is older than any row
		return true
	}
	if seen.caused {
		g.grow(k.origin, seen.at)
	}
	return time.Since(seen.at) >= g.rows[k.origin].pause()
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
	if !g.enter(false) {
		return
	}
	defer g.mu.Unlock()
	k := kindOf(req)
	delete(g.kinds, k)
	g.prove(k, token)
	if r, known := g.rows[k.origin]; known {
		g.rows[k.origin] = row{1, r.last}
	}
}

// uncured notes that nothing shows a token to be good that a refusal caused;
// refused says that it was refused, too.
func (g *guard) uncured(req *http.Request, token *tokensource.Token, refused bool) {
	g.enter(true)
	defer g.mu.Unlock()
	k, h := kindOf(req), hashOf(token)
	if g.proven[sighting{k, h}] {
		return // it has been revoked since it came
	}
	if _, known := g.rows[k.origin]; known && !refused {
		return
	}
	if refused {
		makeRoom(g.kinds, maxSightings)
		g.kinds[k] = true
	}
	g.grow(k.origin, g.seen[h].at)
}

// enter takes the lock and ends what has had its time. If nothing is left to
// watch, it begins anew, or else reports false and has not taken the lock.
func (g *guard) enter(begin bool) bool {
	if !begin && !g.watching.Load() {
		return false
	}
	g.mu.Lock()
	for o, r := range g.rows {
		if time.Since(r.last) >= 2*longestPause {
			delete(g.rows, o)
		}
	}
	if len(g.rows) > 0 || time.Since(g.trial) < shortestPause {
		return true
	}
	g.watching.Store(begin)
	if !begin {
		g.mu.Unlock()
		return false
	}
	g.rows, g.kinds = make(map[origin.Origin]row), make(map[kind]bool)
	g.proven, g.seen = make(map[sighting]bool), make(map[uint64]firstSaw)
	return true
}

// grow begins a row, or doubles its pause, unless it has grown since a time: many
// requests get one new token. g.mu is held.
func (g *guard) grow(o origin.Origin, since time.Time) {
	r, known := g.rows[o]
	if known && !since.After(r.last) {
		return
	}
	makeRoom(g.rows, maxRows)
	g.rows[o] = row{r.length + 1, time.Now()}
}

// prove notes that a token was accepted; g.mu is held.
func (g *guard) prove(k kind, token *tokensource.Token) {
	makeRoom(g.proven, maxSightings)
	g.proven[sighting{k, hashOf(token)}] = true
}

// note notes a token that was not seen before, or that has come again; g.mu is held.
func (g *guard) note(token *tokensource.Token, saw firstSaw) {
	h := hashOf(token)
	before, known := g.seen[h]
	if !known || saw.caused && (!before.caused || saw.at.Sub(before.at) >= shortestPause) {
		makeRoom(g.seen, maxSightings)
		g.seen[h] = saw
	}
}

// pause is how long ago a token must have been seen first.
func (r row) pause() time.Duration {
	return min(shortestPause<<max(0, min(r.length-1, 10)), longestPause)
}

// makeRoom keeps a map below its bound.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	for k := range m {
		if len(m) < most {
			return
		}
		delete(m, k)
	}
}
