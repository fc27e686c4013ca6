package sim_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
	s := &sending{w: w, req: req, stop: make(chan struct{}), done: make(chan struct{})}
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
	s.arrive(x.p)
	w.mu.Unlock()
	go s.read()
	resp, err := s.answer()
	if err != nil {
		close(s.stop)
		s.abandon()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.note("request %d, %d: %v", s.call.id, s.n, err)
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x.p.learns(req.URL.Host, resp)
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
	req   *http.Request
	call  *call
	n     int // how often the call was sent before, and once more
	token *access
	nonce int // of its proof
	d     *dice

	closeBody func()
	stop      chan struct{} // closed when nobody wants more of the body
	done      chan struct{} // closed when the body is read and closed

	got int // bytes of the body; this and err are set before done
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
	s.nonce = w.proof(s.req, s.req.URL.Host, p)
	w.note("request %d, %d: sent with access token %d", id, s.n, s.token.n)
	c.sendsWith[s.token]++
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

// read reads the body as a transport does.
func (s *sending) read() {
	defer close(s.done)
	d := s.w.draw("read", s.call.id, s.n)
	defer s.closeBody()
	if s.req.Body == nil {
		return
	}
	size, slow := 1+d.IntN(maxBuffer), d.chance(0.3)
	if body, ok := s.req.Body.(io.WriterTo); ok && s.req.ContentLength < 0 && d.chance(0.5) {
		s.copy(body, slow, d)
		return
	}
	buffer := buffers.Get().(*[maxBuffer]byte)
	defer buffers.Put(buffer)
	for !s.stopped() {
		n, err := s.req.Body.Read(buffer[:size])
		s.arrived(buffer[:n])
		switch {
		case err == io.EOF:
			s.end()
			return
		case err != nil:
			s.err = err
			return
		case s.req.ContentLength > 0 && int64(s.got) == s.req.ContentLength && size%2 == 0:
			s.end() // the server has it all, and needs to see no EOF
			return
		}
		if slow {
			time.Sleep(d.upTo(s.w.way() / 4))
		}
	}
}

// buffers are what bodies are read into. Nothing but the Read may keep one.
var buffers = sync.Pool{New: func() any { return new([maxBuffer]byte) }}

const maxBuffer = 5000

// arrived checks a piece of the body.
func (s *sending) arrived(piece []byte) {
	whole := s.call.content
	if at := min(s.got, len(whole)); !bytes.HasPrefix(whole[at:], piece) {
		s.w.mu.Lock()
		s.w.broken("request %d, %d: other bytes than the body's after %d", s.call.id, s.n, at)
		s.w.mu.Unlock()
	}
	s.got += len(piece)
}

// copy reads the body as net/http does one of unknown length over HTTP/1.1.
func (s *sending) copy(body io.WriterTo, slow bool, d *dice) {
	_, err := body.WriteTo(writer(func(p []byte) (int, error) {
		if s.stopped() {
			return 0, errStuck
		}
		s.arrived(p)
		if slow {
			time.Sleep(d.upTo(s.w.way() / 4))
		}
		return len(p), nil
	}))
	if err != nil {
		s.err = err
		return
	}
	s.end()
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// end checks a body that looks whole.
func (s *sending) end() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.got != len(s.call.content) {
		s.w.broken("request %d, %d: %d bytes look like the whole body of %d", s.call.id, s.n, s.got, len(s.call.content))
	}
	if s.call.body != nil && s.call.body.trailer != nil && s.req.Trailer.Get("X-Sum") != "whole" && s.req.ContentLength < 0 {
		s.w.broken("request %d, %d: the trailer did not come", s.call.id, s.n)
	}
}

func (s *sending) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// abandon closes the body of a request that is over, at once or soon, even while
// it is being read.
func (s *sending) abandon() {
	if s.d.chance(0.5) {
		go s.closeBody()
	} else {
		go func() {
			time.Sleep(s.d.upTo(time.Second))
			s.closeBody()
		}()
	}
}

// answer is what the network and the API do.
func (s *sending) answer() (*http.Response, error) {
	w, ctx, f := s.w, s.req.Context(), s.w.fault
	w.mu.Lock()
	if w.calm {
		f = faults{}
	}
	w.mu.Unlock()
	way := w.way()
	if s.d.chance(f.apiSlow) {
		way *= 10
	}
	late := s.call.late || s.d.chance(0.4)
	if late {
		if err := s.wholeBody(ctx); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, s.d.upTo(way)); err != nil {
		return nil, err
	}
	if s.token == nil {
		return s.redirected(), nil
	}
	if s.d.chance(f.apiBroken) {
		return nil, s.call.wireFault()
	}
	resp := w.demand(s.req, s.req.URL.Host, s.nonce)
	if resp == nil {
		w.mu.Lock()
		resp = s.judge()
		w.mu.Unlock()
	}
	if resp != nil {
		s.early(resp)
		return resp, nil
	}
	if !late {
		if err := s.wholeBody(ctx); err != nil {
			return nil, err
		}
	}
	return s.accepted(ctx, f, way)
}

// wholeBody waits until the body is read.
func (s *sending) wholeBody(ctx context.Context) error {
	select {
	case <-s.done:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// judge refuses the token, or returns nil; w.mu is held.
func (s *sending) judge() *http.Response {
	w := s.w
	switch {
	case w.issuer.valid(s.token) && !time.Now().Before(w.refusing[s.call.api]):
		if w.calm || !s.d.chance(0.02) {
			return nil
		}
		s.call.forbidden = true
		w.note("request %d, %d: not allowed", s.call.id, s.n)
		resp := answer(s.req, 401, "not allowed")
		resp.Header.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		return resp
	}
	w.note("request %d, %d: access token %d is refused", s.call.id, s.n, s.token.n)
	s.call.refusals++
	s.token.refusedAt(s.call.api)
	resp := answer(s.req, 401, "refused")
	if s.d.chance(0.7) {
		resp.Header.Set("WWW-Authenticate", `Basic realm="x", `+w.issuer.kind()+` error="invalid_token"`)
	}
	return resp
}

// early makes a refusal one that comes before the body has been read: over
// HTTP/1.1 the rest is read until the response is closed, over HTTP/2 the body is
// closed before, and closing the response waits for a Read.
func (s *sending) early(resp *http.Response) {
	http2 := s.d.chance(0.5)
	if http2 {
		close(s.stop)
		s.closeBody()
	}
	if s.d.chance(0.1) {
		resp.Body = io.NopCloser(endless{})
	}
	s.w.mu.Lock()
	s.call.open++
	s.w.mu.Unlock()
	resp.Body = &reply{Reader: resp.Body, close: once(func() {
		s.w.mu.Lock()
		s.call.open--
		s.w.mu.Unlock()
		if http2 {
			select {
			case <-s.done:
			case <-s.req.Context().Done():
			}
			return
		}
		close(s.stop)
		s.abandon()
	})}
}

// A reply is a response's body.
type reply struct {
	io.Reader
	close func()
}

func (r *reply) Close() error { r.close(); return nil }

// endless drips, and heeds no context.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return len(p), nil
}

// accepted is what happens to a request that the API has obeyed.
func (s *sending) accepted(ctx context.Context, f faults, way time.Duration) (*http.Response, error) {
	w := s.w
	w.mu.Lock()
	s.call.acted = true
	w.note("request %d, %d: accepted", s.call.id, s.n)
	resp := answer(s.req, 200, "done")
	if w.along && s.d.chance(0.1) {
		next := w.issuer.mint(s.token.family)
		resp.Header.Set("X-Token", next.text)
	}
	w.mu.Unlock()
	if s.call.redirects {
		resp.StatusCode = 302
		resp.Header.Set("Location", "https://elsewhere.test/there")
	}
	if err := pause(ctx, s.d.upTo(way)); err != nil {
		return nil, err
	}
	switch {
	case s.d.chance(f.apiLost):
		return nil, s.call.wireFault()
	case s.d.chance(f.apiHalf):
		resp.Body = io.NopCloser(failing{s.call.wireFault()})
	}
	return resp, nil
}

// redirected answers where a redirect has led: elsewhere, and back.
func (s *sending) redirected() *http.Response {
	resp := answer(s.req, 200, "done")
	if s.req.URL.Path == "/there" {
		resp.StatusCode = 302
		resp.Header.Set("Location", "https://api0.test/back-again")
	}
	return resp
}

// newToken is Auth.NewToken.
func (w *world) newToken(resp *http.Response) *tokensource.Token {
	text := resp.Header.Get("X-Token")
	if text == "" {
		return nil
	}
	return &tokensource.Token{AccessToken: text, TokenType: w.issuer.kind()}
}

// proof checks that a request has a proof of its own, with the newest nonce that
// the process has, and returns the nonce; w.mu is held.
func (w *world) proof(req *http.Request, server string, p *process) int {
	if !w.dpop {
		return 0
	}
	var claims struct{ Jti, Nonce string }
	parts := strings.Split(req.Header.Get("DPoP"), ".")
	data, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if err != nil || json.Unmarshal(data, &claims) != nil || w.proofs[claims.Jti] {
		w.broken("%s: a proof is missing, or was used before", server)
		return 0
	}
	w.proofs[claims.Jti] = true
	nonce := nonceOf(claims.Nonce, server)
	if known := knownBefore(p.nonces[server], time.Now()); nonce < known {
		w.broken("%s: a proof has nonce %d, though %d was known", server, nonce, known)
	}
	return nonce
}

// demand returns the response that demands another nonce; nil if that is the newest.
func (w *world) demand(req *http.Request, server string, nonce int) *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dpop || nonce == w.nonces {
		return nil
	}
	w.note("%s wants nonce %d, not %d", server, w.nonces, nonce)
	body, status := "", 401
	if server == issuerName {
		body, status = `{"error":"use_dpop_nonce"}`, 400
	}
	resp := answer(req, status, body)
	resp.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
	resp.Header.Set("DPoP-Nonce", fmt.Sprint(server, "-", w.nonces))
	return resp
}

// nonceOf returns the number of a nonce; zero if it is none of the server's.
func nonceOf(text, server string) int {
	number, _ := strings.CutPrefix(text, server+"-")
	n, _ := strconv.Atoi(number)
	return n
}

const issuerName = "issuer.test"

// learns notes the nonce of a response that has arrived, unless it demands it: that
// is for one request alone, until it is known to be good; w.mu is held.
func (p *process) learns(server string, resp *http.Response) {
	if resp.Header.Get("WWW-Authenticate") != "" {
		return
	}
	if nonce := nonceOf(resp.Header.Get("DPoP-Nonce"), server); nonce > 0 {
		p.nonces[server] = append(p.nonces[server], sighting{time.Now(), nonce})
	}
}
