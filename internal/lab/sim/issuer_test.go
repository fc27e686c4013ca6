package sim_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// An issuer is the authorization server: it rotates refresh tokens, and ends all
// of a login's tokens when one is used again.
type issuer struct {
	w        *world
	ahead    time.Duration // of our clock
	families []*family     // a login each; the first is the client's own
	tokens   []*access
	access   map[string]*access
	spent    map[string]*spending
	calls    int
	denied   time.Time // the last invalid_grant
}

// A family is all the tokens of one login.
type family struct {
	w          *world
	n, refresh int
	dead       bool
}

// An access token.
type access struct {
	n      int
	family *family
	text   string
	ends   time.Time // by the server's clock
	ended  bool
	life   time.Duration // as its reply tells; zero: it doesn't
	until  time.Time     // as its receiver believes, at the latest; zero: unknown
	came   time.Time
}

// A spending is what is known of a refresh token that was sent.
type spending struct {
	sending bool
	arrived bool // the reply to it
	excused bool // it may be sent again
}

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

func (i *issuer) init() {
	i.access, i.spent = map[string]*access{}, map[string]*spending{}
	i.families = []*family{{w: i.w}}
}

func (i *issuer) newest() *family { return i.families[len(i.families)-1] }

func (i *issuer) now() time.Time { return time.Now().Add(i.ahead) }

// endAccess ends the access tokens of a family, or all.
func (i *issuer) endAccess(f *family) {
	for _, a := range i.tokens {
		a.ended = a.ended || f == nil || a.family == f
	}
}

// valid reports whether an API accepts the token; one that it has refused it never does again.
func (i *issuer) valid(a *access) bool {
	a.ended = a.ended || !i.now().Before(a.ends)
	return !a.ended
}

// mint makes an access token.
func (i *issuer) mint(f *family) *access {
	if i.w.oneAccess && f.n > 0 {
		i.endAccess(f)
	}
	a := &access{n: len(i.tokens) + 1, family: f, ends: i.now().Add(i.w.life)}
	a.text = fmt.Sprint("access-", a.n)
	switch i.w.tells {
	case tellsSeconds, tellsEarly:
		a.life = i.w.life.Truncate(time.Second)
	case tellsJWT:
		a.life = max(time.Second, i.w.life.Truncate(time.Second))
		iat := i.now().Unix()
		a.text = jwt(map[string]any{"iat": iat, "exp": iat + int64(a.life/time.Second), "jti": a.text})
	}
	i.tokens = append(i.tokens, a)
	i.access[a.text] = a
	return a
}

func jwt(claims map[string]any) string {
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	return part(map[string]string{"alg": "ES256"}) + "." + part(claims) + ".c2ln"
}

// login begins a family, and returns its first token, which may be a refresh token alone.
func (i *issuer) login(d *dice) (t *tokensource.Token, n, seq int) {
	f := &family{w: i.w, n: len(i.families)}
	i.families = append(i.families, f)
	t = &tokensource.Token{RefreshToken: f.token(), TokenType: i.kind()}
	if d.chance(0.5) {
		return t, f.n, 0
	}
	a := i.mint(f)
	a.came = time.Now()
	t.AccessToken = a.text
	if i.w.tells != tellsNothing {
		a.until = time.Now().Add(a.life)
		t.Expiry = a.until
	}
	return t, f.n, a.n
}

func (f *family) token() string { return fmt.Sprintf("refresh-%d-%d", f.n, f.refresh) }

func (i *issuer) kind() string {
	if i.w.dpop {
		return "DPoP"
	}
	return "Bearer"
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

// familyOf returns the family of a refresh token; nil if there is none.
func (i *issuer) familyOf(refresh string) *family {
	var n, generation int
	if _, err := fmt.Sscanf(refresh, "refresh-%d-%d", &n, &generation); err != nil {
		return nil
	}
	return i.families[n]
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

func (i *issuer) byNumber(n int) *access {
	if n == 0 {
		return nil
	}
	return i.tokens[n-1]
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

// afterLogout notes a token request though the user has logged out; w.mu is held.
func (w *world) afterLogout(x *exchange) {
	grace := time.Duration(0)
	if w.plan.processes > 1 {
		grace = 6 * time.Second // Stored may be on its way to the source
	}
	last, alone := w.lastOp(x.began.Add(-grace))
	if alone && last != nil && !last.login && last.err == nil && !w.store.excused {
		w.broken("token request %d after the logout", x.n)
	}
}

// refreshed is the Cache's OnRefresh.
func (p *process) refreshed(r tokensource.Refresh) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note("process %d: refresh (%s) after %v with %d waiters: %v", p.n, r.Cause, r.Duration, r.Waiters, r.Err)
	if errors.Is(r.Err, context.DeadlineExceeded) {
		p.timedOut = time.Now()
	}
	switch {
	case r.Cause != tokensource.Refused || r.Err != nil: // the caller waits out a failure, and causes the next
		p.others++
	case r.Err == nil && w.plan.processes == 1 && p.last.good && p.last.token != nil &&
		p.last.ended.Equal(time.Now()) && !p.last.began.Before(time.Now().Add(-r.Duration)): // else it was begun for another reason
		p.wasted++
	}
	if r.Err != nil && !w.explains(p, r.Err, time.Now()) {
		w.broken("process %d: a refresh failed by itself: %v", p.n, r.Err)
	}
}

// explains reports whether a source's error is one that the plan contains; w.mu is held.
func (w *world) explains(p *process, err error, began time.Time) bool {
	text := err.Error()
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		return w.mayBeLoggedOut(began)
	case strings.Contains(text, "fault-"):
		return true // whether it is the last one, see current
	case errors.Is(err, context.DeadlineExceeded): // the Cache's, or Stored's
		return w.maybeSlow()
	case w.plan.processes > 1 && isStoreError(err):
		return w.store.faulty()
	case w.dpop && strings.Contains(text, "use_dpop_nonce"):
		return w.has(newNonces)
	case w.dpop && strings.Contains(text, "invalid_grant"):
		return !w.issuer.denied.IsZero()
	}
	return false
}

// mayBeLoggedOut reports whether nothing but a login can help; w.mu is held.
func (w *world) mayBeLoggedOut(began time.Time) bool {
	if w.userless {
		return false
	}
	last, alone := w.lastOp(began)
	switch denied := w.issuer.denied; {
	case !alone || last == nil || !last.login:
		return true
	case w.plan.processes == 1:
		return !denied.Before(last.end)
	default: // another process may have to find out yet
		return !denied.IsZero() || slices.ContainsFunc(w.ops, func(o *op) bool { return !o.login || o.err != nil })
	}
}

func isStoreError(err error) bool {
	_, ok := errors.AsType[*tokensource.StoreError](err)
	return ok
}

// errTooLate is for what is sent after the end of its context.
var errTooLate = errors.New("too late")

// maybeSlow reports whether a refresh may take longer than the Cache's Timeout. Where
// nothing new comes, the processes of a crowd ask one after the other.
func (w *world) maybeSlow() bool {
	return w.fault.slow+w.fault.stubborn > 0 || 4*w.latency > w.timeout ||
		w.plan.processes > 1 && (w.store.faulty() || time.Duration(2*w.plan.processes)*w.latency > w.timeout)
}
