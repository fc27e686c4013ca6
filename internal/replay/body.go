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
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// ErrCut is what an attempt reads that another one has replaced. It is not
// io.EOF, which would make a shortened body look whole.
var ErrCut = errors.New("tokentripper: this attempt was given up, the request is sent again")

var errClosed = errors.New("tokentripper: read of a closed request body")

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

// A recording is a caller's request body and what was read of it.
type recording struct {
	src    io.ReadCloser
	length int64       // of src, as the request declares it; zero or less: unknown
	caller http.Header // the request's Trailer, the caller's until src ends
	names  http.Header // its names
	limits Limits
	budget *Budget
	owner  Body // the outermost, and its first attempt: one allocation
	begin  attempt

	mu      sync.Mutex // guards what follows and the attempts
	cond    sync.Cond  // signalled when any of it changes
	live    *attempt   // the one that may read and, if it is the last, closes src
	owners  int        // that may send another attempt; zero: live is the last, nothing more is kept
	held    bool       // live waits before its next Read
	reading bool       // a Read of src is in progress, perhaps by an attempt that was cut off
	reader  *attempt   // whose Read that is, or was
	end     error      // what src ended with
	closed  bool       // src was closed

	chunks  [][]byte
	size    int64 // bytes in chunks
	taken   int64 // from the budget
	dropped bool  // the recording is no longer whole
	done    bool  // what was taken has been given back for good
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
	b := &recording{src: req.Body, limits: limits, budget: budget, owners: 1}
	if len(req.TransferEncoding) == 0 { // else net/http goes by that alone
		b.length = req.ContentLength
	}
	if len(req.Trailer) > 0 {
		b.length, b.caller, b.names = 0, req.Trailer, maps.Clone(req.Trailer)
	}
	b.cond.L = &b.mu
	b.begin.body, b.live = b, &b.begin
	b.owner = Body{recording: b, first: &b.begin}
	return &b.owner
}

// First returns the body to send with the first attempt.
func (b *Body) First(req *http.Request) io.ReadCloser {
	if b == nil {
		return req.Body
	}
	return b.first
}

// Hold makes the first attempt wait before its next Read, if the body can be
// sent again; else it reports false and the attempt goes on. What it reports
// stays true: from here on the recording is not dropped.
func (b *Body) Hold(req *http.Request) bool {
	if b == nil {
		return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nested && b.live != b.first {
		return false // its owner has replaced it already
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
	if b.owners == 0 {
		b.drop()
	}
	closeNow := b.owners == 0 && b.live != nil && b.live.closed
	b.cond.Broadcast()
	b.mu.Unlock()
	if closeNow {
		b.closeSourceSoon()
	}
}

// Next is the second attempt, which ends the first. Sent tells whether the
// first had read the whole body, Reading whether a Read of the caller's body is
// in progress.
//
// Trailer has the values when Body has ended. It is not the caller's, who may
// write to that one until then, while net/http looks for the names.
type Next struct {
	Body          io.ReadCloser
	Trailer       http.Header
	Sent, Reading bool
}

// Next cuts off the first attempt and returns the next, to be called after Hold
// reported true. It fails only if the request's GetBody does, and then nothing
// has changed, or if another owner has called Close.
func (b *Body) Next(req *http.Request) (Next, error) {
	if b == nil {
		body := req.Body
		if body != nil && body != http.NoBody {
			var err error
			if body, err = req.GetBody(); err != nil {
				return Next{}, err
			}
		}
		return Next{Body: body, Trailer: req.Trailer, Sent: true}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live == nil {
		return Next{}, errClosed
	}
	sent := b.live.whole()
	b.live = &attempt{body: b.recording, trailer: maps.Clone(b.names)}
	b.held = false
	b.settle()
	b.cond.Broadcast()
	return Next{b.live, b.live.trailer, sent, b.reading}, nil
}

// Close cuts off every attempt and closes the caller's body: the outermost
// owner's affair.
func (b *Body) Close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.live = nil // no attempt reads any more, nor closes the caller's body
	b.drop()
	b.cond.Broadcast()
	b.mu.Unlock()
	b.closeSourceSoon()
}

// Done gives back the memory budget. Attempts may go on. It releases a Body
// that nothing was decided of.
func (b *Body) Done() {
	if b == nil {
		return
	}
	b.mu.Lock()
	if !b.nested {
		b.done = true
		b.giveBack()
	}
	settled := b.settled
	b.mu.Unlock()
	if !settled {
		b.Release()
	}
}

// settle notes that this owner sends no other attempt; b.mu is held.
func (b *Body) settle() {
	if !b.settled {
		b.settled = true
		b.owners--
	}
}

// closeSource closes the caller's body, once.
func (b *recording) closeSource() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	if closed {
		return nil
	}
	return b.src.Close()
}

// closeSourceSoon is closeSource for who must not wait. Close may: that of a
// server's inbound body waits for a Read in progress, or reads the rest.
func (b *recording) closeSourceSoon() {
	b.mu.Lock()
	ended := b.end != nil
	b.mu.Unlock()
	if ended {
		b.closeSource()
		return
	}
	go b.closeSource()
}

// An attempt is the body as one request sees it.
type attempt struct {
	body   *recording
	chunk  int   // where in the recording the next Read begins:
	offset int   // in which chunk, and where in it
	read   int64 // bytes that Read has returned
	ended  bool  // Read has returned io.EOF
	closed bool
	spare  []byte // where WriteTo reads what is not kept

	trailer http.Header // filled at the end; nil in the first attempt, which has the caller's
}

// Read returns what was kept, then reads on from the caller's body.
func (a *attempt) Read(p []byte) (int, error) {
	p, err := a.next(p, false)
	return len(p), err
}

// WriteTo writes what Read would return, without a copy: the caller's body is
// read where it is kept, and written from there. That is how net/http sends a
// body of unknown length with HTTP/1.1.
func (a *attempt) WriteTo(w io.Writer) (written int64, err error) {
	for err == nil {
		var p []byte
		p, err = a.next(nil, true)
		if len(p) > 0 {
			n, failed := w.Write(slices.Clip(p)) // what follows is the recording's
			written += int64(n)
			if failed == nil && n < len(p) {
				failed = io.ErrShortWrite
			}
			if failed != nil {
				return written, failed
			}
		}
	}
	if err == io.EOF {
		err = nil
	}
	return written, err
}

// next reads once, into p or in place: then it needs no p.
func (a *attempt) next(p []byte, inPlace bool) ([]byte, error) {
	b := a.body
	b.mu.Lock()
	for a.mustWait() {
		b.cond.Wait()
	}
	got, err, found := a.recorded(p, inPlace)
	if !found {
		b.reading, b.reader = true, a
		if inPlace {
			p = a.room()
		}
	}
	b.mu.Unlock()
	if found {
		return got, err
	}
	n, err := b.src.Read(p)
	n, err = a.arrived(p, n, err)
	return p[:n], err
}

func (a *attempt) mustWait() bool {
	b := a.body
	return b.live == a && !a.closed && (b.held || b.reading && a.read >= b.size)
}

// recorded answers a Read without the caller's body, if it can.
func (a *attempt) recorded(p []byte, inPlace bool) (got []byte, err error, found bool) {
	b := a.body
	switch {
	case a.closed:
		return nil, errClosed, true
	case b.live != a:
		return nil, a.cut(), true
	case a.read < b.size:
		return a.kept(p, inPlace), nil, true
	case b.end != nil:
		a.end(b.end)
		return nil, b.end, true
	}
	return nil, nil, false
}

func (a *attempt) kept(p []byte, inPlace bool) []byte {
	chunks := a.body.chunks
	if a.offset == len(chunks[a.chunk]) {
		a.chunk, a.offset = a.chunk+1, 0
	}
	got := chunks[a.chunk][a.offset:]
	if !inPlace {
		got = p[:copy(p, got)]
	}
	a.offset += len(got)
	a.read += int64(len(got))
	return got
}

// room is where to read the caller's body: where it will be kept, if it will, and
// if there is as much room as some readers demand.
func (a *attempt) room() []byte {
	if a.body.wanted() {
		if p := a.body.free(false); len(p) >= bytes.MinRead {
			return p
		}
	}
	if a.spare == nil {
		a.spare = make([]byte, 32<<10)
	}
	return a.spare
}

// arrived takes what a Read of the caller's body returned. If this attempt was
// cut off meanwhile, it belongs to the next.
func (a *attempt) arrived(p []byte, n int, err error) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.cond.Broadcast()
	b.reading = false
	b.end = err
	cut := b.live != a
	if (cut && b.live != nil || b.wanted()) && !b.keep(p[:n], cut || b.held) {
		b.drop()
	}
	if cut {
		return 0, a.cut()
	}
	a.read += int64(n)
	a.end(err)
	return n, err
}

func (a *attempt) end(err error) {
	a.ended = err == io.EOF
	if a.ended && a.trailer != nil {
		maps.Copy(a.trailer, a.body.caller)
	}
}

// whole reports whether the attempt has read the whole body. With a
// Content-Length, a server has it all, and may answer, before the attempt has
// seen io.EOF.
func (a *attempt) whole() bool {
	return a.ended || a.body.length > 0 && a.read >= a.body.length
}

// cut is what the attempt reads after another has replaced it: io.EOF only if
// nothing is missing, for then its connection can be used again.
func (a *attempt) cut() error {
	if a.whole() {
		return io.EOF
	}
	return ErrCut
}

// Close closes the caller's body if this is the last attempt. If that is not
// decided yet, it is only noted.
func (a *attempt) Close() error {
	b := a.body
	b.mu.Lock()
	a.closed = true
	last := b.owners == 0 && b.live == a
	b.cond.Broadcast()
	b.mu.Unlock()
	if last {
		return b.closeSource()
	}
	return nil
}

// wanted reports whether what is read next is to be kept.
func (b *recording) wanted() bool { return !b.dropped && b.owners > 0 }

// keep records p, within the bounds unless force is set.
func (b *recording) keep(p []byte, force bool) bool {
	for len(p) > 0 {
		n := copy(b.free(force), p) // nothing moves if p was read there
		if n == 0 {
			return false
		}
		last := len(b.chunks) - 1
		b.chunks[last] = b.chunks[last][:len(b.chunks[last])+n]
		b.size += int64(n)
		p = p[n:]
	}
	return true
}

// free is where the recording goes on: in the last chunk, or in another. The
// first has 4 KiB, each twice the one before, up to 256 KiB.
func (b *recording) free(force bool) []byte {
	if last := len(b.chunks) - 1; last >= 0 {
		if c := b.chunks[last]; len(c) < cap(c) {
			return c[len(c):cap(c)]
		}
	}
	n := int64(4<<10) << min(len(b.chunks), 6)
	if !force {
		if n = min(n, b.limits.Body-b.taken); n <= 0 || b.done {
			return nil
		}
		if n = b.budget.take(n, b.limits.Total); n == 0 {
			return nil
		}
		b.taken += n
	}
	c := make([]byte, n)
	b.chunks = append(b.chunks, c[:0])
	return c
}

func (b *recording) drop() {
	b.dropped = true
	late := b.reading && b.reader != b.live              // then what it returns belongs to live
	if b.live == nil || b.live.read >= b.size && !late { // else it has yet to read the rest of them
		b.chunks, b.size = nil, 0
	}
	b.giveBack()
}

func (b *recording) giveBack() {
	b.budget.give(b.taken)
	b.taken = 0
}
