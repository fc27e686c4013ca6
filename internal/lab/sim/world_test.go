package sim_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	randv2 "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A world is one run: the servers, the processes with their clients, and what
// has been seen of them.
type world struct {
	*plan
	seed  uint64
	began time.Time
	store *store

	mu        sync.Mutex // guards what follows, and all that the parts of the world keep; never held while waiting
	log       []line
	bad       []string
	busy      time.Duration   // how long clients sent requests
	calm      bool            // nothing fails any more
	downTill  time.Time       // outage of the token endpoint
	refusing  []time.Time     // until when each API refuses everything
	refusals  []time.Duration // how long each did, in all
	nonces    int             // counts changes of the servers' nonces
	issued    map[int]string  // nonces that are good for one request, and whose they are
	proofs    map[string]bool // seen
	issuer    issuer
	processes []*process
	calls     []*call
	ops       []*op
}

// A line of the log is put together only if it is to be read.
type line struct {
	at   time.Duration
	form string
	args []any
}

// A process is a Cache and what is above and below it.
type process struct {
	w      *world
	n      int
	cache  *tokensource.Cache
	auths  []*auth
	idle   map[string][]*conn
	known  []sighting // of tokens, in the order of time
	nonces map[string][]sighting

	inFlight  int
	last      *exchange     // the last that ended
	failures  int           // in a row
	rested    time.Duration // how long it left the issuer alone after them, at least
	leftAlone time.Time     // no exchange before
	wasted    int           // refreshes because of a refusal though the token was good
	others    int           // refreshes for other reasons, and logins
	row       time.Time     // when the first began of the calls of a Stored that brought nothing new; zero: there are none
	settled   time.Time     // until when a Stored need not be asked, because it has confirmed its token
	read      time.Time     // the last time that what the store had then was read
	cutTill   time.Time     // it cannot reach the store
	timedOut  time.Time     // when a refresh last was over before its exchange
}

// A sighting is when something became known.
type sighting struct {
	at time.Time
	n  int
}

// An op is a login or a logout.
type op struct {
	login      bool
	family     int
	process    int
	start, end time.Time
	err        error
}

func (w *world) note(form string, args ...any) {
	w.log = append(w.log, line{time.Since(w.began), form, args})
}

// way returns how long a thing takes at most.
func (w *world) way() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latency
}

// broken notes that a promise was broken; w.mu is held.
func (w *world) broken(form string, args ...any) {
	w.note("BROKEN: "+form, args...)
	w.bad = append(w.bad, fmt.Sprintf(form, args...))
}

func (w *world) text() string {
	var b strings.Builder
	for _, l := range w.log {
		fmt.Fprintf(&b, "%14v  "+l.form+"\n", append([]any{l.at}, l.args...)...)
	}
	return b.String()
}

// draw returns the randomness of one thing, whatever else happens.
func (w *world) draw(what string, n ...int) *dice {
	h := w.seed
	for _, c := range []byte(what) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	for _, n := range n {
		h = (h ^ uint64(n)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	d := new(dice)
	d.pcg.Seed(h, 1)
	d.Rand = *randv2.New(&d.pcg)
	return d
}

type dice struct {
	randv2.Rand
	pcg randv2.PCG
}

func (d *dice) chance(p float64) bool { return d.Float64() < p }

// upTo draws a time of so many nanoseconds that hardly two things happen at once.
func (d *dice) upTo(most time.Duration) time.Duration {
	return 1 + time.Duration(d.Int64N(int64(most)))
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return ctx.Err()
	}
}

// play runs the world of a seed and returns what was broken, and the log.
func play(t *testing.T, seed uint64) (w *world) {
	w = &world{plan: newPlan(seed), seed: seed}
	defer named(seed) // a deadlock
	synctest.Test(t, func(t *testing.T) {
		defer named(seed)
		w.began = time.Now()
		w.run()
	})
	return w
}

// named adds the seed to a panic.
func named(seed uint64) {
	if r := recover(); r != nil {
		panic(fmt.Sprintf("seed %d: %v", seed, r))
	}
}

func (w *world) run() {
	w.issuer.w = w
	w.issuer.init()
	w.nonces, w.proofs, w.issued = 1, map[string]bool{}, map[int]string{}
	w.refusing = make([]time.Time, w.apis+w.sour)
	w.refusals = make([]time.Duration, w.apis+w.sour)
	for i := w.apis; i < len(w.refusing); i++ {
		w.refusing[i] = w.began.Add(time.Hour)
	}
	w.store = &store{w: w}
	w.note("%+v", *w.plan)
	for n := range w.plan.processes {
		w.processes = append(w.processes, w.newProcess(n))
	}
	if !w.userless {
		w.login(0)
	}
	var wg sync.WaitGroup
	wg.Go(w.happen)
	for n := range w.plan.processes {
		for client := range w.clients {
			wg.Go(func() { w.client(n, client) })
		}
	}
	wg.Wait()
	w.busy = time.Since(w.began)
	w.settle()
	w.verdict()
	if w.users.n > 0 {
		w.house()
	}
}

// newProcess starts a process; the client id keeps the processes of one store
// at the same key.
func (w *world) newProcess(n int) *process {
	p := &process{w: w, n: n, nonces: map[string][]sighting{}, idle: map[string][]*conn{}}
	endpoint := tokensource.Endpoint{URL: "https://issuer.test/token", ClientID: "sim", ClientSecret: "sim-secret"}
	base, token := w.wires(p)
	endpoint.Client = token
	var source tokensource.Source = &tokensource.RefreshToken{Endpoint: endpoint}
	if w.userless {
		source = &tokensource.ClientCredentials{Endpoint: endpoint}
	}
	if w.plan.processes > 1 {
		source = watched{&tokensource.Stored{Source: source, Store: storeOf{w.store, p}, Key: "sim"}, p}
	}
	p.cache = &tokensource.Cache{Source: source, Timeout: w.timeout, OnRefresh: p.refreshed}
	for range w.auths {
		a := newAuth()
		a.Source, a.Base, a.MaxBody, a.MaxMemory = p.cache, base, w.maxBody, w.maxMemory
		if w.along {
			a.NewToken = w.newToken
		}
		if w.with403 {
			a.Refused = transport.UnauthorizedOrForbidden
		}
		p.auths = append(p.auths, a)
	}
	return p
}

// happen lets the events of the plan happen.
func (w *world) happen() {
	var rivals sync.WaitGroup
	defer rivals.Wait()
	for _, e := range w.events {
		time.Sleep(time.Until(w.began.Add(e.at)))
		switch {
		case e.apart && e.what == login:
			rivals.Go(func() { w.login(e.n) })
		case e.apart && e.what == logout:
			rivals.Go(func() { w.logout(e.n) })
		case e.what == login:
			w.login(e.n % w.plan.processes)
		case e.what == logout:
			w.logout(e.n % w.plan.processes)
		case e.what == newProcess:
			n := e.n % w.plan.processes
			p := w.newProcess(n)
			w.mu.Lock()
			w.note("process %d is replaced", n)
			w.processes[n] = p
			w.mu.Unlock()
		default:
			w.mu.Lock()
			w.happens(e)
			w.mu.Unlock()
		}
	}
}

// happens does what takes no time; w.mu is held.
func (w *world) happens(e event) {
	now := time.Now()
	switch e.what {
	case revokeAccess:
		w.note("all access tokens are revoked")
		w.issuer.endAccess(nil)
	case revokeFamily:
		w.note("the newest login is revoked")
		if f := w.issuer.newest(); f != nil {
			f.dead = true
			w.issuer.endAccess(f)
		}
	case clockJump:
		w.note("the servers' clock jumps by %v", e.long)
		w.issuer.ahead += e.long
	case outage:
		w.note("outage of the token endpoint for %v", e.long)
		w.downTill = now.Add(e.long)
	case refuseAll:
		w.note("API %d refuses everything for %v", e.n%w.apis, e.long)
		w.refusing[e.n%w.apis] = now.Add(e.long)
		w.refusals[e.n%w.apis] += e.long
	case newNonces:
		w.note("new nonces")
		w.nonces++
		clear(w.issued)
	case storeOutage:
		w.note("outage of the store for %v", e.long)
		w.store.awayTill = now.Add(e.long)
	case cutOff:
		w.note("process %d cannot reach the store for %v", e.n, e.long)
		w.processes[e.n].cutTill = now.Add(e.long)
	}
}

// login logs in, and tells a process.
func (w *world) login(n int) {
	w.mu.Lock()
	p := w.processes[n]
	token, family, seq := w.issuer.login(w.draw("login", len(w.ops)))
	o := &op{login: true, family: family, process: n, start: time.Now()}
	w.ops = append(w.ops, o)
	w.note("process %d: login %d with access token %d ...", n, family, seq)
	w.mu.Unlock()
	err := p.cache.Set(context.Background(), token)
	w.mu.Lock()
	defer w.mu.Unlock()
	o.end, o.err = time.Now(), err
	p.others++
	p.failures, p.rested, p.leftAlone = 0, 0, time.Time{}
	p.known = append(p.known, sighting{o.end, seq})
	w.note("process %d: login %d: %v", n, family, err)
	if err != nil && w.plan.processes == 1 {
		w.broken("Set failed: %v", err)
	}
}

func (w *world) logout(n int) {
	w.mu.Lock()
	p := w.processes[n]
	o := &op{process: n, start: time.Now()}
	w.ops = append(w.ops, o)
	w.note("process %d: logout ...", n)
	w.mu.Unlock()
	err := p.cache.Forget(context.Background())
	w.mu.Lock()
	defer w.mu.Unlock()
	o.end, o.err = time.Now(), err
	p.failures, p.rested, p.leftAlone = 0, 0, time.Time{}
	p.known = append(p.known, sighting{o.end, 0})
	w.note("process %d: logout: %v", n, err)
}

// lastOp returns the last op that had ended before t, and whether another has
// begun since; w.mu is held.
func (w *world) lastOp(t time.Time) (last *op, alone bool) {
	alone = true
	for _, o := range w.ops {
		switch {
		case !o.end.IsZero() && o.end.Before(t):
			last = o
		default:
			alone = false
		}
	}
	for _, o := range w.ops {
		alone = alone && (o == last || o.end.Before(last.start)) // else the store tells which is the last
	}
	return last, alone
}

// knownBefore returns the newest token that the process had before t; w.mu is held.
func knownBefore(known []sighting, t time.Time) int {
	for i := len(known) - 1; i >= 0; i-- {
		if known[i].at.Before(t) {
			return known[i].n
		}
	}
	return 0
}

// A fault is an error that the plan contains. Its text names it.
type fault string

func (f fault) Error() string { return string(f) }

// A signer signs at no cost: the servers do not verify the signature.
type signer struct{}

func (signer) Public() crypto.PublicKey { return key().Public() }

func (signer) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return signature(), nil }

var key = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

var signature = sync.OnceValue(func() []byte {
	signature, err := key().Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
	if err != nil {
		panic(err)
	}
	return signature
})

var errStuck = errors.New("the body was closed")
