package replay

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// A gate delays Close of a body that has not ended until RoundTrip has returned, for at
// most 250 ms and not beyond the request's context.
//
// A server that refuses an upload early may close the connection while its answer is on
// the way, which breaks off the upload. net/http then closes the body and reports that
// it could not write; it loses the answer unless it reads the answer first
// (golang/go#51109). Before net/http returns an answer without a body, it waits up to
// 50 ms for the end of the write, so the gate must wait longer. The error of an upload
// that breaks off without an answer is delayed by this time.
type gate struct {
	mu     sync.Mutex    // guards what follows
	isOpen bool          // RoundTrip has returned, or a Gated has ended
	opened chan struct{} // closed when the gate opens; nil unless Close waits
}

const patience = 250 * time.Millisecond

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen && g.opened != nil {
		close(g.opened)
	}
	g.isOpen = true
}

func (g *gate) wait(ctx context.Context) {
	g.mu.Lock()
	if g.isOpen {
		g.mu.Unlock()
		return
	}
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
	opened := g.opened
	g.mu.Unlock()
	clock.Wait(ctx, opened, patience)
}

// A Gated is a body with GetBody. It needs no recording, but its Close waits like that
// of a recorded body, see [gate]. Make it with [Gated.Of].
type Gated struct {
	body   io.ReadCloser
	ctx    context.Context
	gate   gate
	began  atomic.Bool // something has been read
	closed atomic.Bool
}

// Of makes g the body to send with req and returns it, if body is a large one.
// Otherwise it returns body itself. It also returns an *os.File itself where net/http
// lets the system send it.
func (g *Gated) Of(req *http.Request, body io.ReadCloser) io.ReadCloser {
	if _, ok := body.(interface{ Answered() }); ok || !Large(req) {
		return body
	}
	if _, ok := body.(*os.File); ok && req.URL.Scheme == "http" {
		return body
	}
	g.body, g.ctx = body, req.Context()
	return g
}

// Large reports whether the body of req has GetBody and is larger than [Small].
func Large(req *http.Request) bool {
	return req.GetBody != nil && !bodyless(req) && (req.ContentLength <= 0 || req.ContentLength > Small)
}

// Read reads the body.
func (g *Gated) Read(p []byte) (int, error) {
	n, err := g.body.Read(p)
	if n > 0 {
		g.began.Store(true)
	}
	if err != nil {
		g.gate.open()
	}
	return n, err
}

// Answered notes that RoundTrip has returned.
func (g *Gated) Answered() { g.gate.open() }

// Close closes the body, once.
func (g *Gated) Close() error {
	if g.closed.Swap(true) {
		return nil
	}
	if g.began.Load() {
		g.gate.wait(g.ctx)
	}
	return g.body.Close()
}
