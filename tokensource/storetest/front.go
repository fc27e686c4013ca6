package storetest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A front stands before the token endpoint and the API of a tokentest server, and
// writes down who gets what.
type front struct {
	srv  *tokentest.Server
	http *httptest.Server
	life time.Duration // what tokens are said to live; zero: as the server says

	mu        sync.Mutex // guards what follows
	changed   chan struct{}
	rotations map[string]rotation // by the refresh token that was spent
	refusals  []refusal
	newest    string              // the access token of the last rotation
	answered  map[string]answered // by goroutine
	saved     map[string]bool     // refresh tokens that a store has taken
	failures  []failure
	errors    []string // what must not happen at all
	trap      *trap
}

// A rotation is a token request that succeeded.
type rotation struct {
	worker int
	next   string // the refresh token
}

// A refusal is a token request that did not.
type refusal struct {
	worker int
	spent  string    // the refresh token
	at     time.Time // when it was asked for
}

// An answered is what a goroutine has got from the API.
type answered struct {
	requests int
	token    string // of the last one
	newest   int    // requests with it
}

// A trap waits until some worker comes to a moment.
type trap struct {
	at     moment
	sprung chan int // the worker
}

// A moment is when a worker is killed.
type moment int

const (
	beforeReply moment = iota // it will never get the refresh token that the server has for it
	duringSave                // or so: just after the reply
	afterSave                 // it still has the lock, as a rule
	anyTime
	moments // how many there are
)

// apiLatency is how long the API takes for a request. It keeps a few hundred goroutines
// from being nothing but busy.
const apiLatency = 20 * time.Millisecond

func newFront(srv *tokentest.Server, life time.Duration) *front {
	f := &front{
		srv: srv, life: life,
		changed:   make(chan struct{}),
		rotations: make(map[string]rotation),
		answered:  make(map[string]answered),
		saved:     make(map[string]bool),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", f.token)
	mux.Handle("/api", srv.Protect(http.HandlerFunc(f.api)))
	f.http = httptest.NewServer(mux)
	return f
}

// note changes what is written down, and wakes whoever waits for that.
func (f *front) note(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *front) api(w http.ResponseWriter, r *http.Request) {
	pause(r.Context(), apiLatency)
	name, token := r.Header.Get(workerHeader), r.Header.Get("Authorization")
	f.note(func() {
		a := f.answered[name]
		if a.token != token {
			a.token, a.newest = token, 0
		}
		a.requests++
		a.newest++
		f.answered[name] = a
	})
}

// token hands a token request on. It does so even if the worker is killed
// meanwhile, for what the server has done must be written down.
func (f *front) token(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	worker, _ := strconv.Atoi(r.Header.Get(workerHeader))
	if err != nil {
		return // killed before it had asked
	}
	began := time.Now()
	resp, err := http.Post(f.srv.TokenURL(), "application/x-www-form-urlencoded", bytes.NewReader(body))
	if err != nil {
		f.note(func() { f.errors = append(f.errors, err.Error()) })
		return
	}
	defer resp.Body.Close()
	var reply map[string]any
	json.NewDecoder(resp.Body).Decode(&reply)
	trap := f.record(refusal{worker, form.Get("refresh_token"), began}, resp.StatusCode, reply)
	if trap != nil && trap.at == beforeReply {
		trap.sprung <- worker
		<-r.Context().Done() // by its death
	}
	if f.life > 0 {
		reply["expires_in"] = f.life.Seconds()
	}
	send(w, resp.StatusCode, reply)
	if trap != nil {
		trap.sprung <- worker
	}
}

// record writes a reply down, and returns the trap that it springs.
func (f *front) record(r refusal, status int, reply map[string]any) (sprung *trap) {
	text := func(name string) string { s, _ := reply[name].(string); return s }
	f.note(func() {
		switch {
		case status == http.StatusOK:
			f.rotations[r.spent] = rotation{r.worker, text("refresh_token")}
			f.newest = "Bearer " + text("access_token")
			sprung = f.spring(beforeReply, duringSave)
		case text("error") == "invalid_grant":
			f.refusals = append(f.refusals, r)
		default:
			f.errors = append(f.errors, "the token endpoint answered "+http.StatusText(status)+": "+text("error"))
		}
	})
	return sprung
}

// send sends a reply to its end.
func send(w http.ResponseWriter, status int, reply any) {
	body, _ := json.Marshal(reply)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
	http.NewResponseController(w).Flush()
}

// setTrap waits for a moment.
func (f *front) setTrap(at moment) *trap {
	t := &trap{at, make(chan int, 2)}
	f.note(func() { f.trap = t })
	return t
}

// spring returns the trap if it is set for one of these moments; f.mu is held.
func (f *front) spring(at ...moment) *trap {
	t := f.trap
	if t == nil || !slices.Contains(at, t.at) {
		return nil
	}
	f.trap = nil
	return t
}
