package tokentest

import (
	"bytes"
	"cmp"
	"io"
	"net"
	"net/http"
)

// A Failure is a way in which token requests (token, login, refresh) fail, see
// [Server.Fail]. The zero Failure answers one request with 503, which a
// tokensource.Cache hides from its callers: set Times to see the error.
//
// Reset, LoseReply, Endless and Hang exclude each other. If several are set, the first
// in this order counts. With any of them, the fields Status, Body, ContentType and
// RetryAfter have no effect.
type Failure struct {
	// Times is how many requests fail. Zero means one. A negative number means all,
	// until [Server.ClearFailures].
	Times int

	// Status is the HTTP status of the answer, 200 or more. Zero means 200 if Body is
	// set, and otherwise 503.
	Status int

	// Body is the body of the answer. Empty means the JSON
	// {"error":"temporarily_unavailable"}.
	Body string

	// ContentType is the Content-Type of the answer. Empty means JSON.
	ContentType string

	// RetryAfter is the value of the Retry-After header. Empty means no such header.
	RetryAfter string

	// Reset resets the connection before the server reads or does anything.
	Reset bool

	// LoseReply carries out the request, and then cuts the connection without an
	// answer. The refresh token is spent, and the new one is lost.
	LoseReply bool

	// Endless answers 200 with a body that never ends, as fast as the client reads,
	// until the client leaves or the server closes.
	Endless bool

	// Hang sends no answer, until the client leaves or the server closes.
	Hang bool
}

// Fail makes the next token requests fail. Failures queue: each request uses the oldest
// that is left.
func (s *Server) Fail(f Failure) {
	f.Times = cmp.Or(f.Times, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, f)
}

// ClearFailures empties the queue of [Server.Fail]. It does not affect requests that
// are already failing.
func (s *Server) ClearFailures() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = nil
}

// nextFailure returns nil for a request that must succeed. The caller holds mu.
func (s *Server) nextFailure() *Failure {
	if len(s.failures) == 0 {
		return nil
	}
	f := s.failures[0]
	switch {
	case f.Times == 1:
		s.failures = s.failures[1:]
	case f.Times > 1:
		s.failures[0].Times--
	}
	return &f
}

func (f *Failure) send(w http.ResponseWriter, r *http.Request) {
	switch {
	case f.Endless:
		sendEndless(w, r)
	case f.Hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	default:
		f.sendAnswer(w)
	}
}

func (f *Failure) sendAnswer(w http.ResponseWriter) {
	status, body := f.Status, f.Body
	if body == "" {
		status = cmp.Or(status, http.StatusServiceUnavailable)
		body = `{"error":"temporarily_unavailable"}`
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	setHeaders(w, cmp.Or(f.ContentType, "application/json"))
	w.WriteHeader(cmp.Or(status, http.StatusOK))
	io.WriteString(w, body)
}

// sendEndless sends a body that begins like a good answer.
func sendEndless(w http.ResponseWriter, r *http.Request) {
	setHeaders(w, "application/json")
	io.WriteString(w, `{"access_token":"`)
	chunk := bytes.Repeat([]byte("x"), 4096)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			break
		}
		http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// reset closes the connection so that the client's system reports a reset instead of an
// orderly end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
