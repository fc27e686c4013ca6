package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An api is the state of the protected API and of the server elsewhere.
type api struct {
	open    atomic.Bool  // every request is accepted: for the base, whose token is none
	strange atomic.Int64 // requests elsewhere
	leaked  atomic.Int64 // of these, with credentials

	sent     sync.Map     // a query, to *atomic.Int64: how often it came
	attempts atomic.Int64 // of requests with a query
	revokeAt int64        // at this many of them, all tokens are revoked; 0: never

	holding atomic.Bool   // requests to /late wait for release
	held    atomic.Int64  // so many do
	release chan struct{} // lets one go
}

// received is the header of the answer that tells what arrived: see [arrival].
const received = "Received"

func (w *world) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api", w.serveAPI)
	mux.HandleFunc("/late", w.serveLate)
	mux.HandleFunc("/redirect", w.serveRedirect)
	return mux
}

// serveAPI reads the body, and only then judges the token: the hardest case for
// who wants to send the body again.
func (w *world) serveAPI(rw http.ResponseWriter, r *http.Request) {
	w.count(r.URL.RawQuery)
	arrival, err := arrive(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the body broke off
	}
	if w.accept(rw, r) {
		rw.Header().Set(received, arrival.String())
	}
}

// serveLate judges the token late, if told to.
func (w *world) serveLate(rw http.ResponseWriter, r *http.Request) {
	if w.holding.Load() {
		w.held.Add(1)
		select {
		case <-w.release:
		case <-r.Context().Done():
		}
	}
	w.accept(rw, r)
}

// serveRedirect sends the client to the URL that is named in the query.
func (w *world) serveRedirect(rw http.ResponseWriter, r *http.Request) {
	if w.accept(rw, r) {
		http.Redirect(rw, r, r.FormValue("to"), http.StatusFound)
	}
}

// accept answers 401 if the token is not good. The challenge is that of RFC
// 6750, with what container registries add to it.
func (w *world) accept(rw http.ResponseWriter, r *http.Request) bool {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if w.good(token) || w.open.Load() {
		return true
	}
	rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/registry",service="api",error="invalid_token"`, w.auth.URL))
	rw.WriteHeader(http.StatusUnauthorized)
	return false
}

// serveElsewhere counts the requests with credentials.
func (w *world) serveElsewhere(_ http.ResponseWriter, r *http.Request) {
	w.strange.Add(1)
	if r.Header.Get("Authorization") != "" {
		w.leaked.Add(1)
	}
}

// count counts an attempt.
func (w *world) count(id string) {
	if id == "" {
		return
	}
	n, _ := w.sent.LoadOrStore(id, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if w.attempts.Add(1) == w.revokeAt {
		w.revoke()
	}
}

// sentMoreThanTwice tells how many requests were.
func (a *api) sentMoreThanTwice() (n int) {
	a.sent.Range(func(_, times any) bool {
		if times.(*atomic.Int64).Load() > 2 {
			n++
		}
		return true
	})
	return n
}

// An arrival is what arrived of a body.
type arrival struct {
	length int64
	sum    uint32        // CRC-32C, which costs next to nothing
	first  time.Duration // since began: when the first byte came
}

var (
	began      = time.Now()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func (a arrival) String() string { return fmt.Sprintf("%d %08x %d", a.length, a.sum, a.first) }

// arrivalOf reads what [arrival.String] wrote.
func arrivalOf(resp *http.Response) (a arrival) {
	fmt.Sscanf(resp.Header.Get(received), "%d %x %d", &a.length, &a.sum, &a.first)
	return a
}

// buffers are large enough that reading costs little.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func arrive(body io.Reader) (a arrival, err error) {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	for err == nil {
		var n int
		n, err = body.Read(buffer[:])
		if a.length == 0 && n > 0 {
			a.first = time.Since(began)
		}
		a.sum = crc32.Update(a.sum, castagnoli, buffer[:n])
		a.length += int64(n)
	}
	if err == io.EOF {
		err = nil
	}
	return a, err
}
