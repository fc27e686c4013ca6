// Package contract tests an http.RoundTripper: what net/http demands of one, and
// what those who are used to http.Transport rely on besides.
//
//	func TestTransport(t *testing.T) {
//		contract.Run(t, contract.Subject{
//			New: func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper {
//				return &Transport{Base: base}
//			},
//		})
//	}
//
// Each case runs in a bubble of testing/synctest: an http.Server, an
// http.Transport, and between them connections in memory, over HTTP/1.1 and
// over HTTP/2. So "meanwhile", "at last" and "never" are exact, waiting costs
// no time, and a goroutine that is left behind ends the test with its stack.
package contract

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A Subject is a RoundTripper to test.
type Subject struct {
	// New makes the RoundTripper, over base.
	New func(base http.RoundTripper, token TokenFunc) http.RoundTripper

	// Tokens tells that the RoundTripper sends tokens, which it gets from the
	// token that New was given.
	Tokens bool

	// Refuses, if not nil, reports whether a server refuses what the
	// RoundTripper sends at first, and will send again: the headers of the 401,
	// or nil. The cases run with a server that accepts everything, with one
	// that refuses before it has read the body, and with one that refuses
	// after that. Nil means that the RoundTripper sends nothing again.
	Refuses func(*http.Request) http.Header

	// ServeHTTP3, if not nil, starts a server of HTTP/3. The cases then run over it
	// instead of HTTP/1.1 and HTTP/2. It calls dialed for each connection that a
	// client makes, and closed when the client has closed it.
	ServeHTTP3 func(h http.Handler, dialed func() (closed func())) Server

	// Breaks are the cases, by name, that the RoundTripper is known not to
	// pass, with a part of what the case says then. All others must pass, and
	// these must not, except those with an empty part: they may.
	Breaks map[string]string
}

// A Server is at the other end of a case.
type Server struct {
	Base  func() http.RoundTripper // returns another one that reaches the server; may have Close
	Close func()                   // may be called twice
}

// ReadsAhead are the cases that a RoundTripper breaks which reads the body into
// memory before it sends anything, and more.
func ReadsAhead(more map[string]string) map[string]string {
	breaks := map[string]string{
		"nothing is read ahead":                      "has the rest: got 0",
		"the body waits for 100 Continue":            "read before the server wanted it",
		"an answer need not wait for the body":       "waits for the body",
		"request and response flow at the same time": "waits for the body",
		"CONNECT opens a tunnel":                     "waits for the body",
		"cancelled while the body is sent":           "RoundTrip goes on",
	}
	maps.Copy(breaks, more)
	return breaks
}

// A TokenFunc returns a new token at each call: token-1, token-2 and so on.
type TokenFunc func(context.Context) (string, error)

// Run runs all cases as subtests.
func Run(t *testing.T, s Subject) {
	var asked, refused atomic.Bool
	if refuses := s.Refuses; refuses != nil {
		s.Refuses = func(r *http.Request) http.Header {
			h := refuses(r)
			asked.Store(true)
			if h != nil {
				refused.Store(true)
			}
			return h
		}
		defer func() {
			if asked.Load() && !refused.Load() {
				t.Error("Refuses has refused nothing: the cases say nothing of what is sent again")
			}
		}()
	}
	known := make(map[string]bool)
	for _, c := range table() {
		if c.tokens && !s.Tokens {
			continue
		}
		known[c.name] = true
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
	for name := range s.Breaks {
		if !known[name] {
			t.Errorf("Breaks has %q, which is no case", name)
		}
	}
}

// An entry of the table is a case. It returns what is wrong.
type entry struct {
	name   string
	run    func(*env) error
	not    func(variant) bool // the variants that it has no meaning in
	tokens bool               // it is for what sends tokens
}

func table() (all []entry) {
	for _, part := range [][]entry{requests, bodies, responses, contexts, traces, clients} {
		all = append(all, part...)
	}
	return all
}

// test runs the case in each variant.
func (c entry) test(t *testing.T, s Subject) {
	text, breaks := s.Breaks[c.name]
	failed := false
	for _, v := range s.variants() {
		if v.refusal != accepted && s.Refuses == nil || c.not != nil && c.not(v) {
			continue
		}
		err := c.try(t, s, v)
		switch {
		case err == nil:
		case !breaks:
			t.Errorf("%v: %v", v, err)
		case !strings.Contains(err.Error(), text):
			t.Errorf("%v: got %v, want an error that has %q", v, err, text)
		default:
			failed = true
		}
	}
	if breaks && text != "" && !failed {
		t.Errorf("passes, but Breaks has it with %q", text)
	}
}

// try runs the case in one variant, in a bubble.
func (c entry) try(t *testing.T, s Subject, v variant) (err error) {
	synctest.Test(t, func(*testing.T) {
		e := newEnv(s, v)
		defer e.close()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		err = errors.Join(c.run(e), e.noted())
	})
	return err
}

// A variant is how the server of a case behaves.
type variant struct {
	protocol string
	refusal  refusal
}

// A refusal says when a server refuses the first attempt.
type refusal string

const (
	accepted refusal = "accepted"
	early    refusal = "refused before the body is read"
	late     refusal = "refused after the body"
)

// The protocols of the variants.
const http1, http2, http3 = "HTTP/1.1", "HTTP/2", "HTTP/3"

func (s Subject) variants() (all []variant) {
	protocols := []string{http1, http2}
	if s.ServeHTTP3 != nil {
		protocols = []string{http3}
	}
	for _, protocol := range protocols {
		for _, refusal := range []refusal{accepted, early, late} {
			all = append(all, variant{protocol, refusal})
		}
	}
	return all
}

func (v variant) String() string { return v.protocol + ", " + string(v.refusal) }

// What a case may have no meaning with.
func unlessHTTP1(v variant) bool { return v.protocol != http1 }
func whenRefused(v variant) bool { return v.refusal != accepted }
func unlessEarly(v variant) bool { return v.refusal != early }
func whenLate(v variant) bool    { return v.refusal == late }
