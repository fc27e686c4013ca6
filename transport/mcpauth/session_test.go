package mcpauth_test

import (
	"context"
	"flag"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/tokentripper/tokentripper/tokensource"
)

var whole = flag.Bool("whole", false, "run for 5 minutes, with calls of 8 s")

// heard is the numbers of the notifications that have arrived.
type heard struct {
	mu  sync.Mutex
	all map[float64]bool
}

func (h *heard) options() *mcp.ClientOptions {
	h.all = map[float64]bool{}
	return &mcp.ClientOptions{ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all[req.Params.Progress] = true
	}}
}

func (h *heard) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// notify sends a notification to each session every 50 ms, and returns how many.
func (s *site) notify(done <-chan struct{}) (sent int) {
	for tick := time.Tick(50 * time.Millisecond); ; {
		select {
		case <-done:
			return sent
		case <-tick:
			sent++
			for session := range s.server.Sessions() {
				session.NotifyProgress(context.Background(), &mcp.ProgressNotificationParams{ProgressToken: "n", Progress: float64(sent)})
			}
		}
	}
}

// A gate is open for requests until their answers begin, or closed for a revocation. A request that is refused for
// the age of its token, and again for a revocation meanwhile, would fail: it is sent at most twice.
type gate struct {
	sync.RWMutex
	base http.RoundTripper
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	g.RLock()
	defer g.RUnlock()
	return g.base.RoundTrip(req)
}

// The server ends the standing stream with each revocation.
func TestCallsAndTheStandingStreamOutliveTheirTokens(t *testing.T) {
	t.Parallel()
	run, lifetime, length := 5*time.Second, 3*time.Second, 1500*time.Millisecond
	if *whole {
		run, length = 5*time.Minute, 8*time.Second
	}
	s, notes := newSite(t), new(heard)
	s.SetLifetime(lifetime, 0)
	var mu sync.Mutex // guards refreshes and calls
	refreshes := map[tokensource.Cause]int{}
	a := s.auth()
	a.Cache = func(source tokensource.Source) *tokensource.Cache {
		return &tokensource.Cache{Source: source, OnRefresh: func(r tokensource.Refresh) {
			mu.Lock()
			defer mu.Unlock()
			if r.Err == nil {
				refreshes[r.Cause]++
			}
		}}
	}
	g := &gate{base: a}
	session := s.connect(t, g, notes.options())

	ctx, cancel := context.WithTimeout(t.Context(), run)
	defer cancel()
	var all sync.WaitGroup
	var sent, revocations, calls int
	all.Go(func() { sent = s.notify(ctx.Done()) })
	all.Go(func() { revocations = s.revokeOften(ctx.Done(), g) })
	for i := range time.Duration(20) {
		all.Go(func() {
			for next := length * i / 20; ctx.Err() == nil; next = length { // calls begin at all times
				if err := call(t.Context(), session, next); err != nil {
					t.Error(err)
				}
				mu.Lock()
				calls++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	waitFor(t, "all notifications", func() bool { return notes.count() == sent })
	mu.Lock()
	defer mu.Unlock()
	counts, refused := s.Counts(), refreshes[tokensource.Refused]
	aged := refreshes[tokensource.Early] + refreshes[tokensource.Expired]
	t.Logf("%d calls, %d notifications, %d revocations, refreshes %v, %+v", calls, sent, revocations, refreshes, counts)
	if notes.count() != sent || sent == 0 || calls < 20 {
		t.Errorf("%d of %d notifications arrived, %d calls", notes.count(), sent, calls)
	}
	// An early refresh comes after 55 % of the lifetime.
	most := int(run/(lifetime*55/100)) + 2
	if counts.TokenRequests != 1+aged+refused || counts.Issued != counts.TokenRequests || s.logins() != 1 {
		t.Errorf("%d token requests, %d tokens and %d logins, want 1 login and a token for each refresh", counts.TokenRequests, counts.Issued, s.logins())
	}
	if refused > revocations || aged > most || aged < int(run/lifetime)-revocations-2 {
		t.Errorf("%d refreshes after a refusal, want at most the %d revocations; %d by age, want at most %d", refused, revocations, aged, most)
	}
	s.wantResource(t)
}

func TestTheSessionSurvivesAServerThatRefusesEverything(t *testing.T) {
	t.Parallel()
	s, notes := newSite(t), new(heard)
	session := s.connect(t, s.auth(), notes.options())
	s.closed.Store(true)
	s.cutStreams()
	for range 3 {
		wantRefusal(t, "a call", call(t.Context(), session, 0), 401, false)
	}
	s.closed.Store(false)
	if err := call(t.Context(), session, 0); err != nil {
		t.Error(err)
	}
	done := make(chan struct{})
	go s.notify(done)
	waitFor(t, "a notification", func() bool { return notes.count() > 0 })
	close(done)
	if n := s.logins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
}

func TestTheSessionSurvivesTheEndOfTheLogin(t *testing.T) {
	s := newSite(t)
	session := s.connect(t, s.auth(), nil)
	for i := 1; i <= 3; i++ {
		if err := call(t.Context(), session, 0); err != nil || s.logins() != i {
			t.Errorf("got %v after %d logins, want no error and %d", err, s.logins(), i)
		}
		s.RevokeAll()
	}
	s.wantResource(t)
}

// revokeOften revokes all access tokens and ends the streams every 4 s, and returns how often.
func (s *site) revokeOften(done <-chan struct{}, g *gate) (n int) {
	for tick := time.Tick(4 * time.Second); ; {
		select {
		case <-done:
			return n
		case <-tick:
			n++
			g.Lock()
			s.RevokeAccess()
			g.Unlock()
			s.cutStreams()
		}
	}
}

// wantResource fails the test unless each token request had the parameter resource.
func (s *site) wantResource(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, form := range s.forms {
		if form.Get("resource") != s.endpoint {
			t.Errorf("token request %d of %d had the resource %q, want %q", i, len(s.forms), form.Get("resource"), s.endpoint)
		}
	}
	if len(s.forms) != s.Counts().TokenRequests {
		t.Errorf("%d token requests were seen, and %d received", len(s.forms), s.Counts().TokenRequests)
	}
}

// waitFor waits until a condition holds, for at most 20 s.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.After(20 * time.Second); !ok(); {
		select {
		case <-end:
			t.Errorf("20 s have passed without %s", what)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
