package sim_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// wires returns how a process reaches the APIs and the token endpoint.
func (w *world) wires(p *process) (base http.RoundTripper, token *http.Client) {
	base = wire{w, p}
	var issuer http.RoundTripper = endpoint{w, p}
	if w.dpop {
		base = &transport.DPoP{Key: signer{}, Base: base}
		issuer = &transport.DPoP{Key: signer{}, Base: issuer}
	}
	return base, &http.Client{Transport: issuer}
}

// A wire is the APIs as a process reaches them: a RoundTripper that reads bodies
// in a goroutine of its own and answers before, while or after that.
type wire struct {
	w *world
	p *process
}

func (x wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w := x.w
	s := &sending{w: w, p: x.p, req: req, broken: make(chan struct{}), done: make(chan struct{})}
	s.closeBody = once(func() {
		switch req.Body.(type) {
		case nil:
		case *source, *copied:
			req.Body.Close()
		default: // not the caller's own, and net/http does so, too
			req.Body.Close()
			req.Body.Close()
		}
	})
	w.mu.Lock()
	s.conn = x.p.connect(req.URL.Host)
	s.arrive(x.p)
	w.mu.Unlock()
	go s.read()
	resp, err := s.answer()
	if err != nil {
		if err != errUnseen {
			s.stopped.Store(true)
		}
		s.abandon()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note("request %d, %d: %v", s.call.id, s.n, err)
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.arrived(resp)
	return resp, nil
}

// once is sync.OnceFunc for a bubble, in which nobody may wait for a mutex: only
// the first call waits.
func once(f func()) func() {
	var called atomic.Bool
	return func() {
		if called.CompareAndSwap(false, true) {
			f()
		}
	}
}

// A sending is a request on its way.
type sending struct {
	w     *world
	p     *process
	req   *http.Request
	conn  *conn
	call  *call
	n     int // how often the call was sent before, and once more
	token *access
	nonce int // of its proof
	d     *dice

	demanded bool // another nonce
	curable  bool // the answer is a refusal that another token may cure

	closeBody func()
	stopped   atomic.Bool   // nobody wants more of the body
	broken    chan struct{} // closed when the server has closed the connection
	done      chan struct{} // closed when the body is read and closed

	got int  // bytes of the body; this and what follows are set before done
	cut bool // nobody wanted the rest
	err error
}

// arrive checks the request as it was sent; w.mu is held.
func (s *sending) arrive(p *process) {
	w, now := s.w, time.Now()
	id, err := strconv.Atoi(s.req.Header.Get("X-Id"))
	if err != nil {
		panic("sim: a request without a number")
	}
	c := w.calls[id]
	s.call = c
	scheme, text, _ := strings.Cut(s.req.Header.Get("Authorization"), " ")
	if s.req.URL.Path != c.path {
		s.d = w.draw("hop", id, len(s.req.URL.Path))
		if text != "" {
			w.broken("request %d: a token was sent to %s after a redirect", id, s.req.URL)
		}
		return
	}
	c.sends++
	s.n = c.sends
	s.d = w.draw("wire", id, s.n)
	s.token = w.issuer.access[text]
	if s.token == nil || scheme != w.issuer.kind() {
		w.broken("request %d: sent with %s %q", id, scheme, text)
		s.token = &access{family: w.issuer.families[0], ended: true}
		return
	}
	s.nonce = w.proof(s.req, s.req.URL.Host, p, c.challenge)
	if c.challenge == 0 {
		c.offered = s.nonce
	}
	c.challenge = 0
	s.onConn()
	w.note("request %d, %d: sent with access token %d", id, s.n, s.token.n)
	c.sendsWith[s.token]++
	c.auth.sees(s.token)
	if most := map[bool]int{false: 1, true: 2}[w.dpop]; c.sendsWith[s.token] > most || len(c.sendsWith) > 2 {
		w.broken("request %d: sent %d times with the same token, with %d tokens in all", id, c.sendsWith[s.token], len(c.sendsWith))
	}
	if c.acted {
		w.broken("request %d: sent again though the server had acted", id)
	}
	if s.tooOld(now) {
		w.broken("request %d: sent with access token %d, %v after its end", id, s.token.n, now.Sub(s.token.until))
	}
	s.fresh(c)
}

// tooOld reports whether the token's end had passed when the request was sent. A
// second attempt may wait for 50 ms with the token at hand, and another proof goes
// with the same token.
func (s *sending) tooOld(now time.Time) bool {
	a := s.token
	if s.w.plan.processes > 1 || a.until.IsZero() || a.cameExpired() || s.call.sendsWith[a] > 1 {
		return false
	}
	if s.n > 1 {
		now = now.Add(-50 * time.Millisecond)
	}
	return !now.Before(a.until)
}

// fresh checks that no newer token was known when the request began; w.mu is held.
func (s *sending) fresh(c *call) {
	w := s.w
	if w.plan.processes > 1 {
		return
	}
	if s.token.n < c.known {
		w.broken("request %d: sent with access token %d, though %d was known", c.id, s.token.n, c.known)
	}
	last, alone := w.lastOp(c.began)
	switch {
	case last == nil:
	case last.login && s.token.family.n < last.family:
		w.broken("request %d: sent with a token of login %d after login %d", c.id, s.token.family.n, last.family)
	case !last.login && alone:
		w.broken("request %d: sent after the logout", c.id)
	}
}

// arrived notes what a response says, once the client has it; w.mu is held.
func (s *sending) arrived(resp *http.Response) {
	c, now := s.call, time.Now()
	c.challenge = challenged(s.demanded, s.req.URL.Host, resp)
	switch {
	case s.token == nil: // a redirect has led here
	case s.demanded:
	default:
		if resp.StatusCode < 400 {
			s.p.learns(s.req.URL.Host, s.nonce, c.offered)
			c.auth.accepts(c.kind(), s.token, len(c.sendsWith) == 2)
		}
		if s.curable {
			c.spared = c.auth.spares(c.kind(), s.token)
			c.auth.refuses(c.kind(), s.token, len(c.sendsWith) == 2)
		}
		if s.curable && s.w.plan.processes == 1 {
			c.withheld, c.bare = s.p.atHand(s.token, now), s.p.bare(now)
		}
	}
}

// atHand returns the number of a token that the process has had for a while, and
// which is newer than the one that was refused.
func (p *process) atHand(refused *access, now time.Time) int {
	a := p.w.issuer.byNumber(knownBefore(p.known, now))
	if a == nil || a.n <= refused.n || !a.until.IsZero() && now.After(a.until.Add(-2*time.Second)) {
		return 0
	}
	return a.n
}

// bare reports whether the process has had no good token for a while.
func (p *process) bare(now time.Time) bool {
	a := p.w.issuer.byNumber(knownBefore(p.known, now))
	return !p.w.along && (a == nil || !a.until.IsZero() && now.After(a.until.Add(2*time.Second)))
}

// newToken is Auth.NewToken.
func (w *world) newToken(resp *http.Response) *tokensource.Token {
	text := resp.Header.Get("X-Token")
	if text == "" {
		return nil
	}
	return &tokensource.Token{AccessToken: text, TokenType: w.issuer.kind()}
}
