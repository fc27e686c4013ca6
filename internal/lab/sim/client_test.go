package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

// A call is a request of a client, as the client and the servers see it.
type call struct {
	w         *world
	id, api   int // the APIs, and then the origins that refuse everything
	process   *process
	auth      *auth
	path      string
	began     time.Time
	known     int // the newest access token then
	content   []byte
	body      *source // nil: none, or GetBody
	late      bool    // the API reads the whole body before it answers
	redirects bool

	sends     int
	sendsWith map[*access]int
	refusals  int
	open      int  // responses that nobody has closed
	acted     bool // the API has
	forbidden bool
	broken    bool  // the wire or the body was, by the plan
	challenge int   // the nonce that the last answer demands; zero: none
	offered   int   // the nonce that the attempt began with
	conn      *conn // of the last refusal, if it was one of an upload
	bare      bool  // there was no good access token when the last refusal arrived
	spared    bool  // the guard may have let the last refusal cause no refresh
	withheld  int   // the access token that was at hand when the last refusal arrived; zero: none
}

// bodyFault and wireFault are failures that the plan contains.
func (c *call) bodyFault() error { return c.failed("body") }
func (c *call) wireFault() error { return c.failed("wire") }

func (c *call) failed(what string) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.broken = true
	return fault(fmt.Sprintf("%s of request %d", what, c.id))
}

// client sends requests one after the other, some of them in a burst.
func (w *world) client(n, client int) {
	d := w.draw("client", n, client)
	for k := range w.requests {
		if !d.chance(0.2) {
			time.Sleep(d.upTo(2 * w.span / time.Duration(w.requests)))
		}
		w.mu.Lock()
		p := w.processes[n]
		c := w.newCall(p, w.draw("call", n, client, k))
		c.choose(w.draw("choice", c.id))
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(context.Background())
		stop := func() bool { return true }
		switch patience := d.upTo(6 * time.Second); {
		case c.body != nil && c.body.sticks >= 0 || d.chance(0.2):
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), patience)
		case d.chance(0.1):
			stop = time.AfterFunc(patience, cancel).Stop
		}
		c.send(ctx, d)
		stop()
		cancel()
	}
}

// newCall draws a request; w.mu is held.
func (w *world) newCall(p *process, d *dice) *call {
	c := &call{
		w: w, id: len(w.calls), process: p, auth: p.auths[0], api: d.IntN(w.apis), path: "/",
		began: time.Now(), sendsWith: map[*access]int{},
	}
	c.known = knownBefore(p.known, c.began)
	w.calls = append(w.calls, c)
	switch d.IntN(4) {
	case 0:
		c.redirects = d.chance(0.1)
	case 1:
		c.content = content(c.id, d.IntN(3000))
	default:
		c.content = content(c.id, d.IntN(12_000))
		c.body = &source{w: w, call: c, content: c.content, pace: d, gone: make(chan struct{}),
			slow: d.chance(0.4), polite: d.chance(0.2), failsAt: -1, sticks: -1}
		switch {
		case len(c.content) == 0 || !d.chance(0.1):
		case d.chance(0.5):
			c.body.failsAt = d.IntN(len(c.content))
		default:
			c.body.sticks = d.IntN(len(c.content))
		}
	}
	return c
}

// choose sends some of the requests to where nothing is allowed.
func (c *call) choose(d *dice) {
	w := c.w
	c.auth = c.process.auths[d.IntN(w.auths)]
	switch {
	case w.sour > 0 && d.chance(0.5):
		c.api = w.apis + d.IntN(w.sour)
	case d.chance(w.forbids):
		c.path = forbiddenPath
	}
	if w.closes && c.content != nil && c.body == nil {
		c.content = content(c.id, d.IntN(maxContent))
	}
}

const forbiddenPath = "/forbidden"

// send sends the request and checks what comes of it.
func (c *call) send(ctx context.Context, d *dice) {
	w := c.w
	req := c.request(ctx, d)
	client := &http.Client{Transport: c.auth}
	resp, err := client.Do(req)
	var text []byte
	if err == nil {
		if resp.StatusCode == 200 {
			text, err = io.ReadAll(resp.Body)
		}
		resp.Body.Close()
	}
	ended := time.Now()
	if err == nil && resp.StatusCode != 200 {
		time.Sleep(time.Nanosecond) // what else happens at this instant comes first: OnRefresh is told of a token that was confirmed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if deadline, ok := ctx.Deadline(); ok && ended.After(deadline) {
		w.broken("request %d: returned %v after its deadline", c.id, ended.Sub(deadline))
	}
	switch {
	case err != nil:
		w.note("request %d: %v", c.id, err)
		if !c.explained(ctx, err) {
			w.broken("request %d failed by itself: %v", c.id, err)
		}
	case resp.StatusCode == 200:
		w.note("request %d: %s", c.id, text)
		if !c.acted {
			w.broken("request %d: got an answer that no API has given", c.id)
		}
	default:
		w.note("request %d: status %d", c.id, resp.StatusCode)
		c.process.hears(c)
		for token := range c.sendsWith {
			if c.refusals > 0 && (!c.replayable() || len(c.sendsWith) == 2) {
				c.auth.begin(c.api, token)
			}
		}
		switch {
		case len(c.sendsWith) == 1 && c.withheld > 0 && c.replayable() && ctx.Err() == nil:
			w.broken("request %d: got a refusal, though access token %d was at hand", c.id, c.withheld)
		case !c.refusable():
			w.broken("request %d was refused by itself, after %d of %d", c.id, c.refusals, c.sends)
		}
	}
}

func (c *call) request(ctx context.Context, d *dice) *http.Request {
	var body io.Reader
	switch {
	case c.body != nil:
		body = c.body
	case c.content != nil:
		body = &copied{Reader: bytes.NewReader(c.content), w: c.w}
	}
	req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("https://api%d.test%s", c.api, c.path), body)
	if err != nil {
		panic(err)
	}
	req.Header.Set("X-Id", fmt.Sprint(c.id))
	switch {
	case body == nil:
		req.Method = "GET"
	case c.body == nil:
		req.ContentLength = int64(len(c.content))
		req.GetBody = func() (io.ReadCloser, error) {
			return &copied{Reader: bytes.NewReader(c.content), w: c.w}, nil
		}
	case d.chance(0.5) && len(c.content) > 0:
		req.ContentLength = int64(len(c.content))
	default:
		req.ContentLength = -1
		if d.chance(0.3) {
			req.Trailer = http.Header{"X-Sum": nil}
			c.body.trailer = req.Trailer
		}
	}
	return req
}

// explained reports whether the plan contains the reason of an error; w.mu is held.
func (c *call) explained(ctx context.Context, err error) bool {
	text := err.Error()
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, errUnseen)) {
		return true
	}
	if strings.Contains(text, fmt.Sprintf(" of request %d", c.id)) || c.body != nil && c.body.sticks >= 0 && errors.Is(err, errStuck) {
		return true
	}
	refused, ok := errors.AsType[*transport.Error](err)
	return ok && c.w.explains(c.process, refused.Err, c.began) && c.current(refused.Err)
}

// current reports whether a token request's failure is the last one's, or one
// that the process has just seen; w.mu is held.
func (c *call) current(err error) bool {
	_, number, found := strings.Cut(err.Error(), "fault-")
	if !found || c.w.plan.processes > 1 {
		return true
	}
	var n int
	fmt.Sscanf(number, "%d.", &n)
	last := c.process.last
	return n == last.n || last.ended.Equal(time.Now())
}

// refusable reports whether there is a reason to hand a refusal to the caller;
// w.mu is held.
func (c *call) refusable() bool {
	w := c.w
	if c.forbidden || c.path == forbiddenPath || c.api >= w.apis || len(c.sendsWith) == 2 { // it may be revoked again in between
		return true
	}
	if !c.replayable() {
		return true
	}
	if w.dpop && w.has(newNonces) {
		return true
	}
	if w.plan.processes > 1 && time.Now().Before(c.process.settled) {
		return true // a token that a Stored has just confirmed is not asked about again
	}
	for token := range c.sendsWith {
		if !c.bare && (c.spared || c.auth.spares(c.kind(), token)) || token.cameExpired() { // it may not be replaced yet
			return true
		}
	}
	return false
}

// replayable reports whether the body can be sent again for certain.
func (c *call) replayable() bool {
	w := c.w
	return w.maxMemory == 0 && (c.body == nil || c.body.failsAt < 0 && (w.maxBody == 0 || int64(len(c.content)) <= w.maxBody))
}

// cameExpired reports whether the reply with the token was so slow.
// Where it must be saved before it is used, that may take longer.
func (a *access) cameExpired() bool {
	came := a.came
	if a.family.w.plan.processes > 1 {
		came = time.Now()
	}
	return !a.until.IsZero() && !a.until.After(came)
}

// settle waits until everything is over, and lets nothing fail from then on.
func (w *world) settle() {
	time.Sleep(7 * time.Minute)
	w.mu.Lock()
	w.calm, w.latency = true, time.Millisecond
	w.note("calm")
	for i := range w.refusing {
		w.refusing[i] = time.Time{}
	}
	w.mu.Unlock()
	time.Sleep(7 * time.Minute)
	if !w.userless {
		w.login(0)
		time.Sleep(7 * time.Minute) // the others find out
	}
	for _, p := range w.processes {
		for _, auth := range p.auths {
			w.probe(p, auth)
		}
	}
}

// probe sends a body as large as the bounds allow, which is refused once: only if
// nothing was lost of the budgets, and the login has reached the process, is it
// sent again.
func (w *world) probe(p *process, auth *auth) {
	for n := range 2 {
		w.mu.Lock()
		c := w.newCall(p, w.draw("probe", p.n))
		c.late, c.redirects = true, false
		most := int64(math.MaxInt64)
		for _, bound := range []int64{w.maxBody, w.maxMemory, maxContent} {
			if bound > 0 {
				most = min(most, bound)
			}
		}
		c.content = content(c.id, int(most))
		c.body = &source{w: w, call: c, content: c.content, pace: w.draw("probe", p.n), gone: make(chan struct{}), failsAt: -1, sticks: -1}
		w.issuer.endAccess(nil)
		if newest := len(w.issuer.tokens) - 1; n == 0 && p.n > 0 && newest >= 0 { // it may be two tokens behind, and sends nothing three times
			token := w.issuer.tokens[newest]
			token.ended, token.ends = false, w.issuer.now().Add(w.life)
		}
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // else a Cache that asks without end is never found
		req := c.request(ctx, w.draw("probe", p.n))
		resp, err := auth.RoundTrip(req)
		w.mu.Lock()
		switch {
		case err != nil:
			w.broken("process %d: in the end a request failed: %v", p.n, err)
		case resp.StatusCode != 200:
			w.broken("process %d: in the end a body of %d bytes was not sent again", p.n, most)
		}
		w.mu.Unlock()
		if resp != nil {
			resp.Body.Close()
		}
		cancel()
		time.Sleep(5 * time.Minute)
	}
}

// verdict checks what can be told only at the end.
func (w *world) verdict() {
	time.Sleep(10 * time.Minute)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if c.body != nil && c.body.closes != 1 {
			w.broken("request %d: the body was closed %d times", c.id, c.body.closes)
		}
		if c.open > 0 {
			w.broken("request %d: a refused response was not closed", c.id)
		}
	}
	if p, most := w.processes[0], w.wasteful(); p.wasted > most {
		w.broken("%d refreshes because of a refusal of a token that was good, at most %d are explained", p.wasted, most)
	}
}
