// Package replay has a request body that can be sent twice.
//
// A [Body] keeps what the first attempt reads while it reads it, and never
// reads ahead. When a response has refused the first attempt, [Body.Hold] stops
// it at its next Read until it is decided what happens: [Body.Release] lets it
// go on, [Body.Next] cuts it off and makes the second attempt, which reads what
// was kept and then the rest; [Body.Close] gives up.
//
// Owners nest: one below another that sends an attempt a second time goes on
// with the same recording, which is kept up for as long as one of them can
// need it.
package replay

import (
	"errors"
	"io"
	"maps"
	"net/http"
)

// ErrCut is what an attempt reads that another one has replaced. It is not
// io.EOF, which would make a shortened body look whole.
var ErrCut = errors.New("tokentripper: this attempt was given up, the request is sent again")

var errClosed = errors.New("tokentripper: read of a closed request body")

// Small is the size in bytes up to which a server has probably read a body that
// it refuses, so that their connection can be used again.
const Small = 8 << 10

// Limits bound the memory of recordings, in bytes.
type Limits struct {
	Body  int64 // of one; zero or less: nothing is recorded
	Total int64 // of all that share the Budget
}

// A Body is a caller's request body, recorded, as one owner sees it. A nil Body
// stands for one that needs no recording, or must not be recorded: its methods
// work on the request.
type Body struct {
	*recording
	first   *attempt
	nested  bool // first is an attempt of another owner
	settled bool // this owner needs the recording no more
}

// New returns the Body of req: nil if req has none, can make another by
// GetBody, or if limits allow no recording. The attempt of another Body is not
// recorded again.
func New(req *http.Request, limits Limits, budget *Budget) *Body {
	if req.Body == nil || req.Body == http.NoBody || req.GetBody != nil {
		return nil
	}
	if a, ok := req.Body.(*attempt); ok {
		a.body.mu.Lock()
		defer a.body.mu.Unlock()
		a.body.owners++
		return &Body{recording: a.body, first: a, nested: true}
	}
	if limits.Body <= 0 {
		return nil
	}
	return &record(req, limits, budget).owner
}

// First returns the body to send with the first attempt.
func (b *Body) First(req *http.Request) io.ReadCloser {
	if b == nil {
		return req.Body
	}
	return b.first
}

// Hold makes the first attempt wait before its next Read, if the body can be
// sent again; else it reports false and the attempt goes on, as the second does.
// What it reports stays true: from here on the recording is not dropped.
func (b *Body) Hold(req *http.Request) bool {
	if b == nil {
		return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settled || b.nested && b.live != b.first {
		return false // this owner has replaced it already, or the one above
	}
	b.held = !b.dropped && (b.end == nil || b.end == io.EOF)
	return b.held
}

// Release lets the attempt go on alone. The caller's body is closed when that is.
func (b *Body) Release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.held = false
	b.settle()
	b.trim()
	closeNow := b.owners == 0 && b.live != nil && b.live.closed
	b.cond.Broadcast()
	b.mu.Unlock()
	if closeNow {
		b.closeSourceSoon()
	}
}

// Next is the second attempt, which ends the first. Sent tells whether the
// first had read the whole body, Small whether it had read so little that the
// server has probably read it too, Reading whether a Read of the caller's body
// is in progress.
//
// Trailer has the values when Body has ended. It is not the caller's, who may
// write to that one until then, while net/http looks for the names.
type Next struct {
	Body                 io.ReadCloser
	Trailer              http.Header
	Sent, Small, Reading bool
}

// Next cuts off the first attempt and returns the next, to be called after Hold
// reported true. It fails only if the request's GetBody does, and then nothing
// has changed, or if another owner has called Close.
func (b *Body) Next(req *http.Request) (Next, error) {
	if b == nil {
		body := req.Body
		small := body == nil || body == http.NoBody || 0 < req.ContentLength && req.ContentLength <= Small
		if body != nil && body != http.NoBody {
			var err error
			if body, err = req.GetBody(); err != nil {
				return Next{}, err
			}
		}
		return Next{Body: body, Trailer: req.Trailer, Sent: true, Small: small}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live == nil {
		return Next{}, errClosed
	}
	sent, small := b.live.whole(), b.live.read <= Small
	b.live = &attempt{body: b.recording, chunk: b.gone, trailer: maps.Clone(b.names)}
	b.held = false
	b.settle()
	b.cond.Broadcast()
	return Next{b.live, b.live.trailer, sent, small, b.reading}, nil
}

// Close cuts off every attempt and closes the caller's body: the outermost
// owner's affair.
func (b *Body) Close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.live = nil // no attempt reads any more, nor closes the caller's body
	b.dropped = true
	b.trim()
	b.cond.Broadcast()
	b.mu.Unlock()
	b.closeSourceSoon()
}

// Done ends what this owner does with the Body. Attempts may go on. It releases
// a Body that nothing was decided of.
func (b *Body) Done() {
	if b == nil {
		return
	}
	b.mu.Lock()
	settled := b.settled
	b.mu.Unlock()
	if !settled {
		b.Release()
	}
	if b.nested {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lendOn()
}

// settle notes that this owner sends no other attempt; b.mu is held.
func (b *Body) settle() {
	if !b.settled {
		b.settled = true
		b.owners--
	}
}
