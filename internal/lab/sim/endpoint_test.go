package sim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// An exchange is one token request.
type exchange struct {
	n, epoch     int
	process      *process
	began, ended time.Time
	since        time.Time // from when a token's life counts: the first send, if this is another for a nonce
	good         bool      // the token that it replaces
	token        *access
	refresh      string
	wanted       int // the nonce that the last answer demanded, for which this is sent again; zero: none
	offered      int // the nonce that is known to be good
	nonce        int
	demanded     bool  // by the server, another nonce
	challenge    int   // which, once the demand has arrived; zero: none
	fault        fault // as the client sees it; empty: none
}

// An endpoint is the token endpoint as a process reaches it: a RoundTripper.
type endpoint struct {
	w *world
	p *process
}

func (e endpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	w := e.w
	data, err := io.ReadAll(req.Body)
	req.Body.Close()
	form, bad := url.ParseQuery(string(data))
	if err != nil || bad != nil {
		panic(fmt.Sprint("sim: form: ", err, bad))
	}
	refresh := form.Get("refresh_token")
	if req.Context().Err() != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if e.p.last != nil {
			e.p.last.challenge = 0 // it has ended without
		}
		return nil, fmt.Errorf("%w: %w", errTooLate, req.Context().Err())
	}
	w.mu.Lock()
	x := w.issuer.start(e.p, refresh)
	x.nonce = w.proof(req, issuerName, e.p, x.wanted)
	w.mu.Unlock()
	resp, err := e.answer(req, refresh, x)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.issuer.end(x, refresh, resp, err)
	return resp, err
}

// start notes that a token request has been sent; w.mu is held.
func (i *issuer) start(p *process, refresh string) *exchange {
	w := i.w
	i.calls++
	x := &exchange{n: i.calls, process: p, refresh: refresh, began: time.Now(), since: time.Now(), epoch: len(w.ops)}
	x.offered = knownBefore(p.nonces[issuerName], x.began)
	if l := p.last; l != nil && l.challenge != 0 && l.ended.Equal(x.began) && l.refresh == refresh && !p.timedOut.After(l.began) {
		x.since, x.wanted = l.since, l.challenge
	}
	if a := i.byNumber(knownBefore(p.known, x.began)); a != nil {
		x.good = !a.ended && i.now().Before(a.ends)
	}
	w.note("process %d: token request %d with %q", p.n, x.n, refresh)
	if p.inFlight++; p.inFlight > 1 {
		w.broken("process %d: %d token requests at once", p.n, p.inFlight)
	}
	if w.plan.processes == 1 && !w.along && x.began.Before(p.leftAlone) {
		w.broken("token request %d after %d failures, %v too early", x.n, p.failures, p.leftAlone.Sub(x.began))
	}
	w.afterLogout(x)
	if refresh == "" {
		return x
	}
	if f := i.familyOf(refresh); f != nil && w.plan.processes > 1 {
		x.process.goesOnWith(f, x.process.read, "a token request")
	}
	s := i.spent[refresh]
	if s == nil {
		s = &spending{}
		i.spent[refresh] = s
	}
	if w.rotates && (s.sending || s.arrived && !s.excused) && !w.store.excused {
		w.broken("token request %d: %s is sent again, after its reply: %v", x.n, refresh, s.arrived)
	}
	s.sending = true
	return x
}

// end notes what the client got; w.mu is held.
func (i *issuer) end(x *exchange, refresh string, resp *http.Response, err error) {
	w, p := i.w, x.process
	p.inFlight--
	x.ended = time.Now()
	p.last = x
	arrived := err == nil && x.fault == ""
	if arrived && x.token != nil {
		p.learns(issuerName, x.nonce, x.offered)
	}
	x.challenge = challenged(arrived && x.demanded, issuerName, resp)
	if s := i.spent[refresh]; s != nil {
		s.sending = false
		s.arrived = s.arrived || arrived && (x.token != nil || !w.dpop)
	}
	w.note("token request %d: %v %v", x.n, x.fault, err)
	switch {
	case arrived && x.token != nil:
		p.failures, p.rested, p.leftAlone = 0, 0, time.Time{}
		x.token.came = x.ended
		if x.token.life > 0 || w.tells < tellsJWT {
			x.token.until = x.since.Add(x.token.life)
		}
		if w.tells < tellsJWT && x.token.life == 0 { // it says nothing of a token that lives less than a second
			x.token.until = time.Time{}
		}
		if x.epoch == len(w.ops) {
			p.known = append(p.known, sighting{x.ended, x.token.n})
		}
	case x.fault != "" && x.epoch == len(w.ops):
		failed := x.ended
		if limit := x.since.Add(w.timeout); limit.Before(failed) {
			failed = limit
		}
		if x.began.Before(p.timedOut) { // its error came late, and ended nothing
			failed = p.timedOut
		}
		least := max(300*time.Millisecond, min(p.rested/4, 100*time.Second-w.timeout)) * 6 / 10
		p.failures++
		p.rested += least
		p.leftAlone = failed.Add(least)
		if resp != nil && resp.Header.Get("Retry-After") != "" && x.ended.Equal(failed) {
			p.leftAlone = maxTime(p.leftAlone, failed.Add(retryAfter))
		}
	}
}

const retryAfter = 7 * time.Second

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// answer is what the network and the server do.
func (e endpoint) answer(req *http.Request, refresh string, x *exchange) (*http.Response, error) {
	w, ctx := e.w, req.Context()
	d := w.draw("exchange", x.n)
	f := w.fault
	w.mu.Lock()
	down, calm := x.began.Before(w.downTill), w.calm
	end := x.since.Add(24 * time.Second)
	if w.plan.processes > 1 {
		end = w.store.till
	}
	w.mu.Unlock()
	if calm {
		f = faults{}
	}
	way := w.way()
	if d.chance(f.slow) {
		way = 2 * w.timeout
	}
	if d.chance(f.stubborn) { // a transport that does not look at the context, but the lock outlives it, even if it sends again
		ctx, way = context.Background(), max(1, min(2*w.timeout, time.Until(end)/2))
	}
	if err := pause(ctx, d.upTo(way)); err != nil {
		return nil, x.fails(err)
	}
	switch {
	case d.chance(f.noReply) || down && d.chance(0.5):
		return nil, x.fails(nil)
	case d.chance(f.refused) || down:
		x.fails(nil)
		resp := answer(req, 503, `{"error":"temporarily_unavailable","error_description":"`+string(x.fault)+`"}`)
		if d.chance(0.2) {
			resp.Header.Set("Retry-After", "7")
		}
		if err := pause(ctx, d.upTo(way)); err != nil {
			return nil, x.fails(err)
		}
		return resp, nil
	}
	resp := w.demand(req, issuerName, x.nonce)
	x.demanded = resp != nil
	if resp == nil {
		resp = w.issuer.act(req, refresh, x)
		w.mu.Lock()
		w.brings(resp, issuerName)
		w.mu.Unlock()
	}
	if err := pause(ctx, d.upTo(way)); err != nil {
		return nil, x.fails(err)
	}
	switch {
	case d.chance(f.lost):
		return nil, x.fails(nil)
	case d.chance(f.half) && !x.demanded: // the header says it
		x.fails(nil)
		resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(resp.Body, 20), failing{x.fault}))
	}
	return resp, nil
}

// fails makes the exchange one that fails by the plan.
func (x *exchange) fails(err error) error {
	x.fault = fault(fmt.Sprintf("fault-%d.", x.n))
	if err != nil {
		return fmt.Errorf("%w %w", x.fault, err)
	}
	return x.fault
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// act is what the server does with a request that has reached it.
func (i *issuer) act(req *http.Request, refresh string, x *exchange) *http.Response {
	w := i.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if refresh == "" {
		x.token = i.mint(i.families[0])
		w.note("access token %d", x.token.n)
		return answer(req, 200, i.reply(x.token, ""))
	}
	var n, generation int
	if _, err := fmt.Sscanf(refresh, "refresh-%d-%d", &n, &generation); err != nil {
		w.broken("token request %d: unknown refresh token %q", x.n, refresh)
	}
	f := i.families[n]
	last := generation == f.refresh || w.grace && generation == f.refresh-1
	if f.dead || w.rotates && !last {
		f.dead = true
		i.endAccess(f)
		i.denied = time.Now()
		w.note("invalid_grant: %s", refresh)
		return answer(req, 400, `{"error":"invalid_grant"}`)
	}
	if w.rotates && generation == f.refresh {
		f.refresh++
	}
	x.token = i.mint(f)
	w.note("access token %d, and %s", x.token.n, f.token())
	if w.omits && !w.rotates {
		return answer(req, 200, i.reply(x.token, ""))
	}
	return answer(req, 200, i.reply(x.token, f.token()))
}

func (i *issuer) reply(a *access, refresh string) string {
	r := map[string]any{"access_token": a.text, "token_type": i.kind()}
	if refresh != "" {
		r["refresh_token"] = refresh
	}
	if i.w.tells == tellsSeconds || i.w.tells == tellsEarly {
		r["expires_in"] = int(a.life / time.Second)
	}
	if i.w.tells == tellsEarly {
		r["refresh_in"] = int(a.life / time.Second * 2 / 3)
	}
	data, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func answer(req *http.Request, status int, body string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	return &http.Response{
		StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)), Request: req,
	}
}

// errTooLate is for what is sent after the end of its context.
var errTooLate = errors.New("too late")

// maybeSlow reports whether a refresh may take longer than the Cache's Timeout. Where
// nothing new comes, the processes of a crowd ask one after the other.
func (w *world) maybeSlow() bool {
	return w.fault.slow+w.fault.stubborn > 0 || 4*w.latency > w.timeout ||
		w.plan.processes > 1 && (w.store.faulty() || time.Duration(2*w.plan.processes)*w.latency > w.timeout)
}
