package sim_test

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A plan is what a seed decides from the start: what the world is like, and what
// will happen in it when. Whatever else is random is drawn from the seed and the
// name of the thing, so that it does not depend on the order of events.
type plan struct {
	processes, apis, clients, requests int
	span                               time.Duration // during which requests begin

	// The authorization server.
	userless  bool          // client credentials, else refresh tokens
	rotates   bool          // a refresh token works once, and again means that it was stolen
	grace     bool          // but the last one before works still
	omits     bool          // the reply leaves out a refresh token that stays
	oneAccess bool          // a refresh ends the access token before
	life      time.Duration // of access tokens
	tells     int           // how: see the constants
	along     bool          // an API sends new tokens along
	latency   time.Duration // of everything, at most
	fault     faults

	// This client.
	dpop               bool
	timeout            time.Duration // of the Cache
	maxBody, maxMemory int64         // zero: as much as is needed

	servers
	shared shared
	users  users
	events []event
}

// servers are the manners of some of the servers.
type servers struct {
	sour      int     // origins that refuse every token, beside the APIs
	forbids   float64 // the part of the requests that goes to a path that refuses every token, at any API
	with403   bool    // so: Refused is UnauthorizedOrForbidden
	auths     int     // of a process, on its Cache
	closes    bool    // the connection of a refused upload, a moment later
	onceOnly  bool    // a nonce is good for one request
	demand400 bool    // an API demands a nonce with 400
}

// What a reply tells of the token's life.
const (
	tellsSeconds = iota // expires_in, truncated
	tellsEarly          // also refresh_in
	tellsJWT            // the token does, by the server's clock
	tellsNothing
)

// faults are probabilities: of a token request, of an API request, of an
// operation of the store.
type faults struct {
	refused, noReply, lost, half, slow, stubborn float64
	apiBroken, apiLost, apiHalf, apiSlow         float64
	load, update, save, saved, late, lock, hang  float64
}

// An event is something that happens at a moment.
type event struct {
	at   time.Duration
	what int
	n    int           // which API or process
	long time.Duration // for those that last

	apart bool // what comes next does not wait for it
}

// Events.
const (
	revokeAccess = iota // all access tokens end
	revokeFamily        // the refresh tokens of the newest login end, too
	login               // and Set
	logout              // Forget
	clockJump           // of the servers' clock, forwards
	outage              // of the token endpoint
	refuseAll           // an API refuses everything
	newNonces           // the servers' nonces change
	storeOutage         // the store is away
	newProcess          // a process is replaced
	kindsOfEvents

	cutOff = kindsOfEvents // a process cannot reach the store; see rivals
)

// newPlan draws a plan.
func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 0))
	chance := func(p float64) bool { return r.Float64() < p }
	between := func(a, b time.Duration) time.Duration { return a + time.Duration(r.Int64N(int64(b-a))) }
	p := &plan{
		processes: 1, apis: 1 + r.IntN(3), clients: 1 + r.IntN(10), requests: 1 + r.IntN(12),
		span:     between(time.Second, 4*time.Minute),
		userless: chance(0.25), rotates: chance(0.8), grace: chance(0.15), omits: chance(0.5), oneAccess: chance(0.3),
		life: between(time.Second, 2*time.Minute), tells: r.IntN(4), along: chance(0.1),
		latency: between(time.Millisecond, 800*time.Millisecond),
		dpop:    chance(0.12), timeout: between(time.Second, 20*time.Second),
	}
	if chance(0.3) { // as many as possible at once
		p.span = between(time.Millisecond, 3*time.Second)
	}
	if chance(0.3) {
		p.maxBody = int64(1 + r.IntN(9000))
	}
	if chance(0.2) {
		p.maxMemory = int64(1 + r.IntN(20_000))
	}
	if chance(0.25) {
		p.processes = 2 + r.IntN(3)
		p.clients = min(p.clients, 3)
		p.userless, p.grace, p.along = false, false, false
		p.timeout = 30 * time.Second
	}
	p.fault = p.drawFaults(r)
	for range r.IntN(8) {
		e := event{at: between(0, p.span), what: r.IntN(kindsOfEvents), n: r.IntN(12), long: between(0, p.span/2+time.Second)}
		if p.processes == 1 && e.what >= storeOutage || p.userless && (e.what == login || e.what == logout) {
			e.what = revokeAccess
		}
		p.events = append(p.events, e)
	}
	slices.SortFunc(p.events, func(a, b event) int { return int(a.at - b.at) })
	p.servers = drawServers(seed, p.dpop)
	p.drawShared(seed)
	p.drawUsers(seed)
	return p
}

// drawServers draws from a stream of its own, so that seeds that know nothing of
// this keep their schedules.
func drawServers(seed uint64, dpop bool) (s servers) {
	r := rand.New(rand.NewPCG(seed, 4))
	chance := func(p float64) bool { return r.Float64() < p }
	s.auths = 1
	if chance(0.7) {
		return s
	}
	if chance(0.4) {
		s.sour = 1 + r.IntN(1+r.IntN(10))
	}
	if chance(0.4) {
		s.forbids, s.with403 = r.Float64()/2, chance(0.4)
	}
	if chance(0.3) {
		s.auths += 1 + r.IntN(3)
	}
	s.closes = chance(0.5)
	s.onceOnly, s.demand400 = dpop && chance(0.5), dpop && chance(0.5)
	return s
}

func (p *plan) drawFaults(r *rand.Rand) (f faults) {
	upTo := func(most float64) float64 {
		if r.IntN(3) > 0 {
			return 0
		}
		return most * r.Float64()
	}
	f = faults{
		refused: upTo(0.5), noReply: upTo(0.5), lost: upTo(0.3), half: upTo(0.2), slow: upTo(0.3), stubborn: upTo(0.2),
		apiBroken: upTo(0.2), apiLost: upTo(0.2), apiHalf: upTo(0.2), apiSlow: upTo(0.3),
	}
	if p.processes > 1 {
		f.load, f.update, f.save, f.saved = upTo(0.3), upTo(0.3), upTo(0.3), upTo(0.4)
		f.late, f.lock, f.hang = upTo(0.2), upTo(0.2), upTo(0.05)
	}
	return f
}

// has reports whether the plan has such an event.
func (p *plan) has(what int) bool {
	return slices.ContainsFunc(p.events, func(e event) bool { return e.what == what })
}
