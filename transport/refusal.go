package transport

import (
	"hash/maphash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Unauthorized reports whether the response refuses the token: its status is
// 401, and no Bearer or DPoP challenge carries an error that another token
// cannot cure: insufficient_scope, invalid_request (RFC 6750 section 3.1),
// insufficient_user_authentication (RFC 9470), insufficient_claims (a claims
// challenge of Microsoft's) or use_dpop_nonce (RFC 9449 section 9). It is what
// [Auth] does by default.
func Unauthorized(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && curable(resp)
}

// UnauthorizedOrForbidden is [Unauthorized] for servers that answer an expired
// token with 403. A 403 that means something else costs a refresh once in a
// while, see [Auth].
func UnauthorizedOrForbidden(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) && curable(resp)
}

func curable(resp *http.Response) bool {
	for _, c := range Challenges(resp) {
		if !strings.EqualFold(c.Scheme, "Bearer") && !strings.EqualFold(c.Scheme, "DPoP") {
			continue
		}
		switch c.Params["error"] {
		case "insufficient_scope", "insufficient_user_authentication", "insufficient_claims", "invalid_request", useNonce:
			return false
		}
	}
	return true
}

// A guard keeps an API that refuses every token from causing a refresh for
// every request. A token that was fetched because an origin refused another is
// on probation there until an answer below 400 does not refuse it: other errors
// prove no token. Refused on probation, it may be replaced only some time after it
// was fetched: 2 s, and twice as long for each such token in a row, up to 2 minutes.
// A row ends when no token was put on probation for 4 minutes.
//
// The Cache could not do this: there, an API that refuses everything would
// starve the others.
type guard struct {
	watching atomic.Int32 // tokens on probation: while there are none, nothing is looked up

	mu     sync.Mutex // guards what follows
	tokens map[sighting]probation
	lapse  time.Time // when all of it may be forgotten
}

// A sighting is a token at an origin, the token as a hash so that none is kept.
type sighting struct {
	origin origin.Origin
	token  uint64
}

type probation struct {
	level int // how many in a row; zero: not on probation, the token has proved itself
	until time.Time
	gone  bool // another token has replaced it: only its level matters
}

// active reports whether the token is on probation.
func (p probation) active() bool { return p.level > 0 && !p.gone }

// Bounds of the guard.
const (
	shortestProbation = 2 * time.Second
	longestProbation  = 2 * time.Minute
	maxSightings      = 1024
)

var seed = maphash.MakeSeed()

func sight(req *http.Request, token *tokensource.Token) sighting {
	return sighting{origin.Of(req.URL), maphash.String(seed, token.AccessToken)}
}

// allows reports whether a token that was refused may be replaced.
func (g *guard) allows(req *http.Request, token *tokensource.Token) bool {
	if g.watching.Load() == 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.tokens[sight(req, token)]
	return !p.active() || !time.Now().Before(p.until)
}

// accept ends the probation of a token that a response did not refuse.
func (g *guard) accept(req *http.Request, token *tokensource.Token) {
	if g.watching.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(time.Now())
	s := sight(req, token)
	if g.tokens[s].active() {
		// It stays known, so that a late refusal of the token before does not
		// put this one on probation again.
		g.tokens[s] = probation{}
		g.watching.Add(-1)
	}
}

// watch puts next on probation, which replaces the refused token old.
func (g *guard) watch(req *http.Request, old, next *tokensource.Token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.forget(now)
	s := sight(req, next)
	if p, known := g.tokens[s]; known && !p.gone {
		return
	}
	if g.tokens == nil {
		g.tokens = make(map[sighting]probation)
	}
	level := g.replaced(sight(req, old)).level + 1
	if len(g.tokens) >= maxSightings {
		g.evict()
	}
	wait := min(shortestProbation<<min(level-1, 10), longestProbation)
	g.tokens[s] = probation{level: level, until: now.Add(wait)}
	g.lapse = now.Add(2 * longestProbation)
	g.watching.Add(1)
}

// forget forgets everything, if the last probation began long enough ago; g.mu
// is held.
func (g *guard) forget(now time.Time) {
	if !now.Before(g.lapse) {
		clear(g.tokens)
		g.watching.Store(0)
	}
}

// replaced notes that another token took the place of s, which may come back;
// g.mu is held.
func (g *guard) replaced(s sighting) probation {
	p, known := g.tokens[s]
	if p.active() {
		g.watching.Add(-1)
	}
	if known {
		p.gone = true
		g.tokens[s] = p
	}
	return p
}

// evict makes room, if it can of a token that is not on probation; g.mu is held.
func (g *guard) evict() {
	var victim sighting
	for s, p := range g.tokens {
		victim = s
		if !p.active() {
			break
		}
	}
	if g.tokens[victim].active() {
		g.watching.Add(-1)
	}
	delete(g.tokens, victim)
}
