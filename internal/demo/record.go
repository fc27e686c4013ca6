package main

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A span is a part of the run. All times count from its beginning.
type span struct{ from, to time.Duration }

// An exchange is one request as its client sees it, and the attempts that Auth made of it.
type exchange struct {
	span
	client   int
	attempts []attempt
	status   int
	checked  bool  // the server told the digest of what arrived
	whole    bool  // and it is that of what was sent
	lost     error // why there is no good answer; nil if there is one
}

// An attempt is one request below Auth.
type attempt struct {
	span
	refused bool
}

// A refresh is what the Cache told of one.
type refresh struct {
	span
	cause   tokensource.Cause
	waiters int
	failed  bool
}

// A mishap is what the play did to the clients.
type mishap struct {
	span
	kind kind
}

type kind string

const (
	revocation kind = "revocation" // all access tokens died
	outage     kind = "outage"     // the token endpoint failed
	rest       kind = "rest"       // no client sent anything
)

// A record collects what happens. It is safe for concurrent use.
type record struct {
	began time.Time

	mu        sync.Mutex // guards what follows
	exchanges []*exchange
	refreshes []refresh
	mishaps   []mishap
	totals    totals
	closed    bool // what comes now is part of the cleaning up
}

// Totals are the numbers of the table.
type totals struct {
	requests, refused, replayed, lost int
	checked, whole                    int
	tokenRequests                     int
	tallies                           map[tokensource.Cause]tally
	statuses                          map[int]int
	reasons                           map[string]int // of losses
}

// A tally is what the table tells of the refreshes with one cause.
type tally struct{ good, failed, waiters int }

func newRecord() *record {
	return &record{began: time.Now(), totals: totals{
		tallies:  map[tokensource.Cause]tally{},
		statuses: map[int]int{},
		reasons:  map[string]int{},
	}}
}

func (r *record) now() time.Duration { return time.Since(r.began) }

// ended takes an exchange that has ended.
func (r *record) ended(x *exchange) {
	x.to = r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, x)
	t := &r.totals
	t.requests++
	for i, a := range x.attempts {
		if a.refused {
			t.refused++
		}
		if i > 0 && x.attempts[i-1].refused {
			t.replayed++
		}
	}
	if x.status != 0 {
		t.statuses[x.status]++
	}
	if x.checked {
		t.checked++
	}
	if x.whole {
		t.whole++
	}
	if x.lost != nil {
		t.lost++
		t.reasons[x.lost.Error()]++
	}
}

// refreshed is the Cache's OnRefresh.
func (r *record) refreshed(e tokensource.Refresh) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.refreshes = append(r.refreshes, refresh{span{now - e.Duration, now}, e.Cause, e.Waiters, e.Err != nil})
	t := r.totals.tallies[e.Cause]
	t.waiters += e.Waiters
	if e.Err != nil {
		t.failed++
	} else {
		t.good++
	}
	r.totals.tallies[e.Cause] = t
}

// lastRefresh is when the last token came; zero before the first.
func (r *record) lastRefresh() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range slices.Backward(r.refreshes) {
		if !e.failed {
			return e.to
		}
	}
	return 0
}

// mishap notes one that began at from and ends now.
func (r *record) mishap(k kind, from time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mishaps = append(r.mishaps, mishap{span{from, r.now()}, k})
}

// progress returns the numbers that the progress bar shows.
func (r *record) progress() (requests, refused, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.totals.requests, r.totals.refused, r.totals.lost
}

// A summary is a record that is complete.
type summary struct {
	what    string // the requests are uploads, or requests
	where   string // the server that was driven; empty for the demo
	clients int
	length  time.Duration

	exchanges []*exchange // in the order in which they began
	refreshes []refresh
	mishaps   []mishap
	totals
}

// complete reports whether the Cache has told what became of each token request.
func (r *record) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.refreshes) >= r.totals.tokenRequests
}

// close ends the record. A refresh may be under way that nobody waits for, or the news of
// the last one: they get a moment, so that the numbers agree.
func (r *record) close() summary {
	for end := r.now() + time.Second; !r.complete() && r.now() < end; {
		time.Sleep(5 * time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	slices.SortFunc(r.exchanges, func(x, y *exchange) int { return cmp.Compare(x.from, y.from) })
	return summary{length: r.now(), exchanges: r.exchanges, refreshes: r.refreshes, mishaps: r.mishaps, totals: r.totals}
}

// good reports whether nothing was lost, and everything arrived whole.
func (s *summary) good() bool { return s.lost == 0 && s.whole == s.checked && s.requests > 0 }

// A probe is the transport below Auth. It sees what Auth does to a request: the
// exchange travels in the request's context, which Auth passes on.
type probe struct {
	*http.Transport
	record *record
}

type exchangeKey struct{}

func (p probe) RoundTrip(req *http.Request) (*http.Response, error) {
	a := attempt{span: span{from: p.record.now()}}
	resp, err := p.Transport.RoundTrip(req)
	a.to = p.record.now()
	a.refused = err == nil && transport.Unauthorized(resp)
	if x, ok := req.Context().Value(exchangeKey{}).(*exchange); ok {
		x.attempts = append(x.attempts, a) // an exchange is one goroutine's
	}
	return resp, err
}

// A counter is the transport of the token endpoint's client.
type counter struct {
	*http.Transport
	record *record
}

func (c counter) RoundTrip(req *http.Request) (*http.Response, error) {
	c.record.mu.Lock()
	if !c.record.closed {
		c.record.totals.tokenRequests++
	}
	c.record.mu.Unlock()
	return c.Transport.RoundTrip(req)
}
