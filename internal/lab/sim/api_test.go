package sim_test

import (
	"context"
	"io"
	"net/http"
	"time"
)

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
	s.demanded = resp != nil
	if resp == nil {
		w.mu.Lock()
		resp = s.judge()
		w.mu.Unlock()
	}
	if resp != nil {
		return s.early(resp)
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
	w, c := s.w, s.call
	if !w.issuer.valid(s.token) || time.Now().Before(w.refusing[c.api]) {
		return s.refused(401)
	}
	switch {
	case c.path == forbiddenPath:
		c.forbidden = true
		return s.refused(map[bool]int{false: 401, true: 403}[w.with403])
	case w.calm || !s.d.chance(0.02):
		return nil
	}
	c.forbidden = true
	w.note("request %d, %d: not allowed", c.id, s.n)
	resp := answer(s.req, 401, "not allowed")
	w.brings(resp, s.req.URL.Host)
	resp.Header.Set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
	return resp
}

// refused refuses a token, and does not say why.
func (s *sending) refused(status int) *http.Response {
	w, c := s.w, s.call
	w.note("request %d, %d: access token %d is refused", c.id, s.n, s.token.n)
	s.curable = true
	c.refusals++
	resp := answer(s.req, status, "refused")
	w.brings(resp, s.req.URL.Host)
	if s.d.chance(0.7) {
		resp.Header.Set("WWW-Authenticate", `Basic realm="x", `+w.issuer.kind()+` error="invalid_token"`)
	}
	return resp
}

// early makes a refusal one that comes before the body has been read: over
// HTTP/1.1 the rest is read until the response is closed, or cannot be sent; over
// HTTP/2 the body is closed before, and closing the response waits for a Read.
func (s *sending) early(resp *http.Response) (*http.Response, error) {
	http2, over := s.d.chance(0.5), false // the connection, before its time
	switch {
	case http2:
		s.stopped.Store(true)
		s.closeBody()
	case s.closed():
		over = true
		s.stopped.Store(true)
		close(s.broken)
		if s.unseen() {
			return nil, errUnseen
		}
	}
	if s.d.chance(0.1) {
		resp.Body = io.NopCloser(endless{})
	}
	if !http2 {
		s.doom()
	}
	if !http2 && !over && s.empties() {
		s.empty(resp)
	} else {
		s.open(resp, http2, over)
	}
	return resp, nil
}

// open gives the response a body that must be closed.
func (s *sending) open(resp *http.Response, http2, over bool) {
	s.w.mu.Lock()
	s.call.open++
	s.w.mu.Unlock()
	end := once(func() {
		if !http2 && !over && s.sent() {
			s.free()
		}
	})
	resp.Body = &reply{resp.Body, end, once(func() {
		s.w.mu.Lock()
		s.call.open--
		s.w.mu.Unlock()
		switch {
		case http2:
			select {
			case <-s.done:
			case <-s.req.Context().Done():
			}
			return
		case !over:
			s.stopped.Store(true)
		}
		s.abandon()
	})}
}

// A reply is a response's body.
type reply struct {
	io.Reader
	end, close func()
}

func (r *reply) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.end()
	}
	return n, err
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
	w.brings(resp, s.req.URL.Host)
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
	default:
		s.free()
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
