package replay

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
)

// A recording is a caller's request body and what was read from it.
type recording struct {
	src    io.ReadCloser
	length int64       // of src, as the request declares it; zero or less: unknown
	caller http.Header // the request's Trailer; it belongs to the caller until src ends
	names  http.Header // its names
	limits Limits
	budget *Budget
	ctx    context.Context // of the request
	owner  Body            // the outermost owner; owner and begin need no allocation of their own
	begin  attempt
	closed atomic.Bool // src was closed

	mu      sync.Mutex // guards what follows and the attempts
	cond    sync.Cond  // signalled when any of it changes
	live    *attempt   // the attempt that may read and, if it is the last, closes src
	owners  int        // how many may send another attempt; zero: live is the last, and nothing more is kept
	held    bool       // live waits before its next Read
	reading bool       // a Read of src is in progress, possibly by an attempt that was cut off
	end     error      // the error that ended src
	dropped bool       // the recording is no longer whole, or no owner needs it
	done    bool       // the outermost owner has returned: nothing more is taken from the budget
	loan    *loan      // what was not given back until then
	chunks
}

func record(req *http.Request, limits Limits, budget *Budget) *recording {
	b := &recording{src: req.Body, limits: limits, budget: budget, ctx: req.Context(), owners: 1}
	if len(req.TransferEncoding) == 0 { // otherwise net/http ignores ContentLength
		b.length = req.ContentLength
	}
	if len(req.Trailer) > 0 {
		b.length, b.caller, b.names = 0, req.Trailer, maps.Clone(req.Trailer)
	}
	b.cond.L = &b.mu
	b.begin.body, b.live = b, &b.begin
	b.owner = Body{recording: b, first: &b.begin}
	return b
}

// wanted reports whether the next bytes are to be kept.
func (b *recording) wanted() bool { return !b.dropped && b.owners > 0 }

// keep records p within the bounds, or all of p if it must.
//
// It must for an attempt that will or may be sent: then p is the result of a Read that
// was in progress when a response refused the attempt. Only such a p is ever kept
// beside the budget, one for each attempt.
func (b *recording) keep(p []byte, must bool) bool {
	for len(p) > 0 {
		c := b.tail(int64(len(p)))
		if c == nil && must {
			c = b.add(sized(int64(len(p))), 0)
		}
		if c == nil {
			return false
		}
		n := copy(c.free(), p) // moves nothing if p was read there
		c.data = c.data[:len(c.data)+n]
		b.size += int64(n)
		p = p[n:]
	}
	return true
}

// place returns the chunk to read the caller's body into, or nil. It makes no new chunk
// to read the end of a body of known length.
//
// If the length is unknown, a new chunk is roomy, unless half of the memory for all
// recordings is taken, and shrinks to the bytes that arrived. So a body of 64 KiB is one
// write, and a body of 1 KiB takes 4 KiB of that memory. If thousands of bodies wait for
// their first byte, further ones take 4 KiB each.
func (b *recording) place() *chunk {
	if !b.wanted() {
		return nil
	}
	c := b.last()
	if b.length <= 0 || b.size < b.length {
		room := int64(roomySize)
		if b.budget.Used() > b.limits.Total/2 {
			room = smallestChunk
		}
		c = b.tail(room)
	}
	if c == nil || len(c.free()) < bytes.MinRead {
		return nil
	}
	return c
}

// tail returns the chunk where the recording goes on: the last one, or a new one for n
// bytes. Nil means that the bounds allow no new one.
func (b *recording) tail(n int64) *chunk {
	if c := b.last(); c != nil && len(c.free()) > 0 {
		return c
	}
	if b.done {
		return nil
	}
	n = min(b.grown(b.length-b.size, n), b.limits.Body-b.taken)
	if n = b.budget.Take(n, b.limits.Total); n == 0 {
		return nil
	}
	return b.add(n, n)
}

// fit shrinks the last chunk if WriteTo has read into it. b.mu is held.
func (b *recording) fit(lent *chunk) {
	if lent != nil && lent == b.last() && b.length <= 0 {
		b.budget.Give(b.shrink())
	}
}

// trim lets go of bytes that no attempt will read. In a recording that cannot be sent
// again, these are the bytes that the last attempt has read, or all if that attempt is
// closed or missing. Such a recording never becomes whole again, and only the live
// attempt looks at a chunk. The rest counts in the budget, even after RoundTrip has
// returned, if the base still reads an attempt that was answered early. b.mu is held.
func (b *recording) trim() {
	if b.wanted() || b.gone == len(b.list) {
		return
	}
	n := len(b.list)
	if a := b.live; a != nil && !a.closed {
		if a.read >= b.size {
			a.chunk, a.offset = n, 0
		} else if a.offset == len(b.list[a.chunk].data) {
			a.chunk, a.offset = a.chunk+1, 0
		}
		n = a.chunk
	}
	if b.size > 0 && n > b.gone {
		b.dropped = true
	}
	freed := b.release(n)
	b.budget.Give(freed)
	if b.loan != nil {
		b.loan.bytes.Add(-freed)
	}
}

// A loan is the part of the budget that a recording still has after its owners have
// returned. It is given back even if the base drops the body without closing it.
type loan struct {
	budget *Budget
	bytes  atomic.Int64
}

func (l *loan) giveBack() { l.budget.Give(l.bytes.Load()) }

// lendOn notes that the owners have returned.
func (b *recording) lendOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	if b.taken > 0 {
		b.loan = &loan{budget: b.budget}
		b.loan.bytes.Store(b.taken)
		runtime.AddCleanup(b, (*loan).giveBack, b.loan)
	}
}

// closeSource closes the caller's body, once.
func (b *recording) closeSource() error {
	if b.closed.Swap(true) {
		return nil
	}
	return b.src.Close()
}

// closeSourceSoon is closeSource for callers that must not wait. Close may block: a
// server's inbound body waits for a Read in progress, or reads the rest.
func (b *recording) closeSourceSoon() {
	if !b.closed.Swap(true) {
		go b.src.Close()
	}
}
