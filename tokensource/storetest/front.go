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

// A front is a proxy before the token endpoint and the API of a tokentest server, which
// notes who receives what.
type front struct {
	srv  *tokentest.Server
	http *httptest.Server
	life time.Duration // the stated lifetime of tokens; zero: the server's

	mu        sync.Mutex // guards what follows
	changed   chan struct{}
	rotations map[string]rotation // by the refresh token that was spent
	refusals  []refusal
	newest    string              // the access token of the last rotation
	answered  map[string]answered // by goroutine
	saved     map[string]bool     // refresh tokens that a store has saved
	failures  []failure
	errors    []string // what must never happen
	trap      *trap
}

// A rotation is a token request that succeeded.
type rotation struct {
	worker int
	next   string // the refresh token
}

// A refusal is a token request that failed.
type refusal struct {
	worker int
	spent  string    // the refresh token
	at     time.Time // when it was received
}

// An answered is what a goroutine has received from the API.
type answered struct {
	requests int
	token    string // of the last request
	newest   int    // requests with it
}

// A trap waits until a worker reaches a moment.
type trap struct {
	at     moment
	sprung chan int // receives the worker
}

// A moment is when a worker is killed.
type moment int

const (
	beforeReply moment = iota // it never receives the refresh token that the server has issued
	duringSave                // approximately: just after the reply
	afterSave                 // usually it still has the lock
	anyTime
	moments // the number of moments
)

// apiLatency is how long the API takes for a request. It keeps a few hundred goroutines
// from using all CPU time.
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

// note changes the notes and wakes the goroutines that wait for a change.
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

// token forwards a token request, even if the worker is killed meanwhile, because what
// the server has done must be noted.
func (f *front) token(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	form, _ := url.ParseQuery(string(body))
	worker, _ := strconv.Atoi(r.Header.Get(workerHeader))
	if err != nil {
		return // killed before it sent the request
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

// record notes a reply, and returns the trap that it springs.
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

// send sends a whole reply.
func send(w http.ResponseWriter, status int, reply any) {
	body, _ := json.Marshal(reply)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
	http.NewResponseController(w).Flush()
}

// setTrap makes the next worker at this moment spring a trap.
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
