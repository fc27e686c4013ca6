package faults_test

import (
	mathrand "math/rand/v2"
	"net"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A mishap begins a fault, and returns what ends it.
type mishap struct {
	name   string
	causes trouble
	begin  func(s *soak, random *mathrand.Rand) (end func())
}

// A trouble is what a fault can do to a request besides breaking its connection.
type trouble int

const (
	none     trouble = iota
	refusal          // it may be refused, and again: tokens die on their way, too
	noToken          // it may get no token
	troubles = iota
)

var mishaps = []mishap{
	{"connections reset", none, func(s *soak, random *mathrand.Rand) func() {
		return s.often(random, func(a *soakAPI) { a.hit(4, resetConn) })
	}},
	{"connections closed", none, func(s *soak, random *mathrand.Rand) func() {
		return s.often(random, func(a *soakAPI) { a.hit(4, func(conn net.Conn) { conn.Close() }) })
	}},
	{"restart", none, func(s *soak, random *mathrand.Rand) func() { s.any(random).restart(); return func() {} }},
	{"stall", refusal, func(s *soak, random *mathrand.Rand) func() {
		a, over := s.any(random), make(chan struct{})
		a.stall.Store(&over)
		return func() { a.stall.Store(nil); close(over) }
	}},
	{"slow API", none, func(s *soak, random *mathrand.Rand) func() {
		a := s.any(random)
		a.latency.Store(int64(50 * time.Millisecond))
		return func() { a.latency.Store(0) }
	}},
	{"API refuses all", refusal, func(s *soak, random *mathrand.Rand) func() {
		a := s.any(random)
		a.refuses.Store(true)
		s.revocations.Add(1)
		return func() { a.refuses.Store(false) }
	}},
	{"revocation", refusal, func(s *soak, _ *mathrand.Rand) func() {
		s.authority.Load().RevokeAccess()
		s.revocations.Add(1)
		return func() {}
	}},
	{"nonces expire", refusal, func(s *soak, _ *mathrand.Rand) func() {
		s.troubled[noToken].Store(s.phase.Load())
		s.expiries.Add(1)
		s.authority.Load().ExpireNonces()
		s.expiries.Add(1)
		return func() {}
	}},
	{"slow endpoint", none, func(s *soak, _ *mathrand.Rand) func() {
		s.authority.Load().SetLatency(300 * time.Millisecond)
		return func() { s.authority.Load().SetLatency(0) }
	}},
	{"endpoint answers 503", noToken, breaks(tokentest.Failure{})},
	{"endpoint answers 503 with Retry-After", noToken, breaks(tokentest.Failure{RetryAfter: "1"})},
	{"endpoint resets", noToken, breaks(tokentest.Failure{Reset: true})},
	{"endpoint answers half", noToken, breaks(tokentest.Failure{Body: `{"access_token":"abc","tok`})},
	{"endpoint never ends", noToken, breaks(tokentest.Failure{Endless: true})},
	{"endpoint hangs", noToken, breaks(tokentest.Failure{Hang: true})},
	{"reply lost", noToken, func(s *soak, random *mathrand.Rand) func() {
		s.repliesLost.Store(true)
		return breaks(tokentest.Failure{Times: 1, LoseReply: true})(s, random)
	}},
}

// breaks makes token requests fail.
func breaks(f tokentest.Failure) func(*soak, *mathrand.Rand) func() {
	if f.Times == 0 {
		f.Times = -1
	}
	return func(s *soak, _ *mathrand.Rand) func() {
		s.broken.Add(1)
		began := time.Now()
		s.authority.Load().Fail(f)
		return func() {
			s.authority.Load().ClearFailures()
			s.outage += time.Since(began)
			s.mended.Add(1)
		}
	}
}

func (s *soak) any(random *mathrand.Rand) *soakAPI { return s.apis[random.IntN(len(s.apis))] }

// often hurts an API every 50 ms.
func (s *soak) often(random *mathrand.Rand, hurt func(*soakAPI)) (end func()) {
	a, over, ended := s.any(random), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				hurt(a)
			}
		}
	}()
	return func() { close(over); <-ended }
}
