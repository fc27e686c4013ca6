// Package replay has a request body that can be sent twice.
//
// A [Body] records what the first attempt reads, and never reads ahead. When a response
// has refused the first attempt, [Body.Hold] stops the attempt at its next Read until
// one of three calls: [Body.Release] lets it go on; [Body.Next] cuts it off and returns
// the second attempt, which reads the recorded bytes and then the rest; [Body.Close]
// gives up.
//
// Owners nest: if a lower owner sends an attempt a second time, it uses the same
// recording. The recording is kept as long as one of the owners may need it.
package replay

import (
	"errors"
	"io"
	"maps"
	"net/http"
)

// ErrCut is what an attempt reads after another has replaced it. It is not io.EOF,
// because that would make a shortened body look whole.
var ErrCut = errors.New("tokentripper: this attempt was given up, the request is sent again")

var errClosed = errors.New("tokentripper: read of a closed request body")

// Small is the size in bytes up to which a server has probably read a body that it
// refuses, so that the connection can be used again.
const Small = 8 << 10

// Limits bound the memory of recordings, in bytes.
type Limits struct {
	Body  int64 // of one recording; zero or less: nothing is recorded
	Total int64 // of all recordings that share the Budget
}

// A Body is a caller's request body with its recording, as one owner uses it. A nil
// Body stands for a body that needs no recording, or must not be recorded: its methods
// work on the request.
type Body struct {
	*recording
	first   *attempt
	nested  bool // first is another owner's attempt
	settled bool // this owner no longer needs the recording
}

func bodyless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// New returns the Body of req. It returns nil if req has no body, if GetBody can make
// another one, or if limits allow no recording. An attempt of another Body is not
// recorded a second time.
func New(req *http.Request, limits Limits, budget *Budget) *Body {
	if bodyless(req) || req.GetBody != nil {
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

// Hold makes the first attempt wait before its next Read if the body can be sent again.
// Otherwise it returns false, and the attempt goes on; it does so for a second attempt.
// The result stays true: after Hold the recording is not dropped.
func (b *Body) Hold(req *http.Request) bool {
	if b == nil {
		return bodyless(req) || req.GetBody != nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settled || b.nested && b.live != b.first {
		return false // this owner or the one above has already replaced it
	}
	b.held = !b.dropped && (b.end == nil || b.end == io.EOF)
	return b.held
}

// Release lets the attempt go on as the last one. The caller's body is closed when the
// attempt is.
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

// Next is the second attempt, which ends the first. Sent reports whether the first had
// read the whole body. Small reports whether it had read so little that the server has
// probably read it too. Reading reports whether a Read of the caller's body is in
// progress.
//
// Trailer has its values when Body has ended. It is a copy, because the caller may
// write to its own Trailer until then, while net/http looks up the names.
type Next struct {
	Body                 io.ReadCloser
	Trailer              http.Header
	Sent, Small, Reading bool
}

// Next cuts off the first attempt and returns the second. Call it only after Hold has
// returned true. It fails if the request's GetBody fails, and then changes nothing, or
// if another owner has called Close.
func (b *Body) Next(req *http.Request) (next Next, err error) {
	if b == nil {
		body := req.Body
		if !bodyless(req) {
			if body, err = req.GetBody(); err != nil {
				return Next{}, err
			}
		}
		return Next{Body: body, Trailer: req.Trailer, Sent: true, Small: !Large(req)}, nil
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

// Close cuts off every attempt and closes the caller's body. Only the outermost owner
// calls it.
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

// Done ends this owner's use of the Body. Attempts may go on. If nothing was decided
// about the Body, Done releases it.
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
	if !b.nested {
		b.lendOn()
	}
}

// settle notes that this owner sends no further attempt; b.mu is held.
func (b *Body) settle() {
	if !b.settled {
		b.settled = true
		b.owners--
	}
}
