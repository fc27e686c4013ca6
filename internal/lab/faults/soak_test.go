package faults_test

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

var (
	soakFor  = flag.Duration("soak", 5*time.Second, "how long TestSoak sends requests")
	soakSeed = flag.Uint64("seed", 0, "the seed of TestSoak; zero draws one")
)

// clientsEach is how many clients each of the four fleets has.
const clientsEach = 16

// lifetime is that of access tokens: the server tells 3 s, which leaves a request
// the rest to arrive in.
const lifetime = 3900 * time.Millisecond

// A soak is the servers and the clients of TestSoak, and what is counted.
type soak struct {
	t         *testing.T
	began     time.Time
	authority atomic.Pointer[tokentest.Server]
	front     *front
	apis      []*soakAPI
	fleets    []*fleet
	pause     sync.RWMutex // held for reading by each request
	outage    time.Duration
	counts    tokentest.Counts // of the authorities before this one
	baseline  int              // goroutines without load
	clients   atomic.Int32

	phase          atomic.Int64           // even while nothing happens
	troubled       [troubles]atomic.Int64 // the phase that had such a fault last
	broken, mended atomic.Int64           // faults of the token endpoint that have begun, and that are over
	repliesLost    atomic.Bool            // since the last login
	expiries       atomic.Int64           // of nonces, each counted before and after

	succeeded, cancelled, refused, tokenless, broke atomic.Int64
	verified, opened, closed                        atomic.Int64
	refreshes, revocations, faults, failures        atomic.Int64
}

// fail reports what must not be.
func (s *soak) fail(format string, args ...any) {
	if s.failures.Add(1) <= 20 {
		s.t.Errorf("%v: "+format, append([]any{time.Since(s.began).Round(time.Millisecond)}, args...)...)
	}
}

// Many clients send all kinds of requests while everything goes wrong at random.
// Storms of faults are followed by calms. A request may fail only by what befell
// it: a fault of its very connection, a token that died twice while storms went on,
// a token endpoint that failed meanwhile. It is the one test here that takes real time: it sleeps while the
// weather lasts.
func TestSoak(t *testing.T) {
	leavesNothing(t)
	seed := *soakSeed
	if seed == 0 {
		seed = mathrand.Uint64()
	}
	t.Logf("-seed %d", seed)
	s := newSoak(t)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	stop := s.load(seed)
	s.weather(random, *soakFor/5)
	early := s.measure()
	s.weather(random, *soakFor)
	stop()
	end := s.measure()
	s.check(early, end)
	fmt.Printf("soak: %v, seed %d: %s; heap %.1f MiB early, %.1f at the end; goroutines beyond those at rest: %d, %d\n",
		time.Since(s.began).Round(time.Second), seed, s, float64(early.heap)/mib, float64(end.heap)/mib, early.goroutines, end.goroutines)
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, began: time.Now(), front: newFront()}
	t.Cleanup(func() { s.front.Close() })
	s.replaceAuthority()
	t.Cleanup(func() { s.authority.Load().Close() })
	trusted := newAuthority()
	roots := x509.NewCertPool()
	roots.AddCert(trusted.cert)
	for i, name := range []string{"HTTP/1.1", "HTTP/2"} {
		a := newSoakAPI(s, []*tls.Config{nil, trusted.sign(loopback(24 * time.Hour))}[i])
		t.Cleanup(a.close)
		s.apis = append(s.apis, a)
		for _, bound := range []bool{false, true} {
			f := newFleet(s, fmt.Sprintf("%s, DPoP: %v", name, bound), a, &tls.Config{RootCAs: roots}, bound)
			f.login()
			s.fleets = append(s.fleets, f)
		}
	}
	t.Cleanup(s.hangUp)
	s.baseline = runtime.NumGoroutine()
	return s
}

// replaceAuthority starts an authorization server that remembers nothing, in
// place of the one before, if any.
func (s *soak) replaceAuthority() {
	if before := s.authority.Load(); before != nil {
		n := before.Counts()
		s.counts.TokenRequests += n.TokenRequests
		s.counts.APIRequests += n.APIRequests
		s.counts.Refused += n.Refused
		before.Close()
	}
	srv := tokentest.Start()
	srv.SetLifetime(lifetime, 0)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	s.authority.Store(srv)
	s.front.behind.Store(srv)
}

func (s *soak) hangUp() {
	for _, f := range s.fleets {
		for _, base := range f.bases {
			base.CloseIdleConnections()
		}
	}
}

// load has all clients send until stop is called.
func (s *soak) load(seed uint64) (stop func()) {
	var over atomic.Bool
	var clients sync.WaitGroup
	for i, f := range s.fleets {
		for j := range clientsEach {
			random := mathrand.New(mathrand.NewPCG(seed, uint64(1+i*clientsEach+j)))
			s.clients.Add(1)
			clients.Go(func() {
				defer s.clients.Add(-1)
				for !over.Load() {
					s.pause.RLock()
					f.send(random)
					s.pause.RUnlock()
				}
			})
		}
	}
	return func() { over.Store(true); clients.Wait() }
}

// weather has storms and calms in turn.
func (s *soak) weather(random *mathrand.Rand, until time.Duration) {
	for first := true; first || time.Since(s.began) < until; first = false {
		s.phase.Add(1)
		s.storm(random)
		s.settle()
		s.phase.Add(1)
		time.Sleep(time.Duration(200+random.IntN(500)) * time.Millisecond)
	}
}

// storm has up to three faults at a time.
func (s *soak) storm(random *mathrand.Rand) {
	var ends []func()
	for range 1 + random.IntN(3) {
		s.faults.Add(1)
		m := mishaps[random.IntN(len(mishaps))]
		s.t.Logf("%v: %s", time.Since(s.began).Round(time.Millisecond), m.name)
		s.troubled[m.causes].Store(s.phase.Load())
		ends = append(ends, m.begin(s, random))
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
	}
	for _, end := range ends {
		end()
	}
	s.t.Logf("%v: calm", time.Since(s.began).Round(time.Millisecond))
}

// settle waits until each fleet has recovered.
func (s *soak) settle() {
	for _, f := range s.fleets {
		if err := f.well(); err != nil {
			s.fail("%v", err)
		}
	}
	s.repliesLost.Store(false)
}

// A measurement is of a moment when nothing is under way.
type measurement struct {
	heap       int64
	goroutines int // more than without load
}

// measure lets all requests end, and replaces the authorization server, whose
// memory of spent proofs is none of the library's.
func (s *soak) measure() (m measurement) {
	s.pause.Lock()
	defer s.pause.Unlock()
	s.phase.Add(1)
	defer s.phase.Add(1)
	s.broken.Add(1) // a refresh that nobody waits for may be under way
	if !eventually(func() bool { return s.opened.Load() == s.closed.Load() }) {
		s.fail("%d bodies were closed of %d", s.closed.Load(), s.opened.Load())
	}
	s.replaceAuthority()
	s.hangUp()
	most := s.baseline + int(s.clients.Load())
	eventually(func() bool { return runtime.NumGoroutine() <= most })
	m.goroutines = runtime.NumGoroutine() - most
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.heap = int64(stats.HeapAlloc)
	for _, f := range s.fleets {
		f.login()
	}
	s.settle()
	s.mended.Add(1)
	return m
}

// check compares the figures with what they may be.
func (s *soak) check(early, end measurement) {
	if early.goroutines > 0 || end.goroutines > 0 {
		s.fail("%d goroutines more than before the load, and %d at the end, want none:\n%s",
			early.goroutines, end.goroutines, strings.Join(stacks(), "\n\n"))
	}
	if grown := end.heap - early.heap; grown > 4*mib {
		s.fail("the heap grew by %d bytes, want at most 4 MiB", grown)
	}
	// Each cache refreshes when more than half of a token's life is over, or it
	// was revoked, at most, and 6 times a second while the endpoint fails. Each
	// refresh may meet a new nonce.
	each := time.Since(s.began).Seconds()/1.5 + 2*float64(s.revocations.Load()) + 6*s.outage.Seconds() + 6*float64(s.broken.Load()) + 10
	if most := int(2 * each * float64(len(s.fleets))); s.counts.TokenRequests > most {
		s.fail("%d token requests, want at most %d", s.counts.TokenRequests, most)
	}
	if s.succeeded.Load() == 0 {
		s.fail("no request succeeded")
	}
}

// String tells what was counted.
func (s *soak) String() string {
	return fmt.Sprintf("%d requests succeeded with %.1f GiB verified, %d were cancelled, %d broke on a connection that a fault hit, "+
		"%d were refused and %d had no token in a storm, %d unexplained; %d faults, %d refreshes by %d token requests, %d of %d attempts refused",
		s.succeeded.Load(), float64(s.verified.Load())/(1<<30), s.cancelled.Load(), s.broke.Load(),
		s.refused.Load(), s.tokenless.Load(), s.failures.Load(), s.faults.Load(), s.refreshes.Load(), s.counts.TokenRequests,
		s.counts.Refused, s.counts.APIRequests)
}
