package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// received is the header of the answer that tells what arrived: see [arrival].
const received = "Received"

// api is the protected API.
func (s *servers) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api", s.serveAPI)
	mux.HandleFunc("/late", s.serveLate)
	mux.HandleFunc("/redirect", s.serveRedirect)
	return mux
}

// serveAPI reads the body, and only then judges the token: the hardest case for
// who wants to send the body again.
func (s *servers) serveAPI(w http.ResponseWriter, r *http.Request) {
	s.count(r.URL.RawQuery)
	arrival, err := arrive(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the body broke off
	}
	if s.accept(w, r) {
		w.Header().Set(received, arrival.String())
	}
}

// count counts an attempt.
func (s *servers) count(id string) {
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted++
	s.attempts[id]++
	if s.attempts[id] == 3 {
		s.counts.Often++
	}
	if s.counted == s.conduct.RevokeAt {
		clear(s.live)
	}
}

// serveLate judges the token late, if told to.
func (s *servers) serveLate(w http.ResponseWriter, r *http.Request) {
	if s.hold() {
		select {
		case <-s.release:
		case <-r.Context().Done():
		}
	}
	s.accept(w, r)
}

// hold reports whether a request has to wait.
func (s *servers) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conduct.Hold {
		s.counts.Held++
	}
	return s.conduct.Hold
}

// serveRedirect sends the client to the URL that is named in the query.
func (s *servers) serveRedirect(w http.ResponseWriter, r *http.Request) {
	if s.accept(w, r) {
		http.Redirect(w, r, r.FormValue("to"), http.StatusFound)
	}
}

// accept answers 401 if the token is not good. The challenge is that of RFC
// 6750, with what container registries add to it.
func (s *servers) accept(w http.ResponseWriter, r *http.Request) bool {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.good(token) {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="api",error="invalid_token"`, s.realm))
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// good reports whether an access token is good.
func (s *servers) good(access string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conduct.Open || time.Now().Before(s.live[access])
}

// serveElsewhere counts the requests with credentials.
func (s *servers) serveElsewhere(_ http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Strange++
	if r.Header.Get("Authorization") != "" {
		s.counts.Leaked++
	}
}

// An arrival is what arrived of a body.
type arrival struct {
	length int64
	sum    uint32 // CRC-32C, which costs next to nothing
	first  int64  // when the first byte came, in nanoseconds since 1970
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
			a.first = time.Now().UnixNano()
		}
		a.sum = crc32.Update(a.sum, castagnoli, buffer[:n])
		a.length += int64(n)
	}
	if err == io.EOF {
		err = nil
	}
	return a, err
}
