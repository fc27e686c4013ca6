package replay

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
)

// An attempt is the body as one request reads it.
type attempt struct {
	body   *recording
	chunk  int   // where the next Read begins in the recording:
	offset int   // in which chunk, and at which byte of it
	read   int64 // bytes that Read has returned
	ended  bool  // Read has returned io.EOF
	closed bool
	lent   *chunk // the chunk that WriteTo writes from or reads into
	gate   gate

	trailer http.Header // filled at the end; nil for the first attempt, which uses the caller's
}

// Read returns the recorded bytes, then reads on from the caller's body.
func (a *attempt) Read(p []byte) (int, error) {
	p, err := a.next(p, false)
	return len(p), err
}

// WriteTo writes what Read would return, without a copy: it reads the caller's body
// into the recording and writes from there. net/http calls it for a body of unknown
// length over HTTP/1.1.
func (a *attempt) WriteTo(w io.Writer) (written int64, err error) {
	for err == nil {
		var p []byte
		if p, err = a.next(nil, true); len(p) == 0 {
			continue
		}
		var n int
		n, err = w.Write(slices.Clip(p)) // the bytes after p are the recording's
		written += int64(n)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
	}
	// If the writer or the caller's Read panics, the chunk is left to the garbage
	// collector.
	a.body.mu.Lock()
	a.lend(nil)
	a.body.mu.Unlock()
	if err == io.EOF {
		err = nil
	}
	return written, err
}

// lend notes the chunk that WriteTo uses from now on without the lock; b.mu is held.
func (a *attempt) lend(c *chunk) {
	if c != nil {
		c.lent++
	}
	if a.lent != nil {
		a.lent.giveBack()
	}
	a.lent = c
}

// next reads once, into p, or in place without a p.
func (a *attempt) next(p []byte, inPlace bool) ([]byte, error) {
	b := a.body
	b.mu.Lock()
	for a.mustWait() {
		b.cond.Wait()
	}
	b.trim()
	got, err, found := a.recorded(p, inPlace)
	if !found {
		b.reading = true
		if inPlace {
			p = a.room()
		}
	}
	b.mu.Unlock()
	if found {
		return got, err
	}
	n, err := a.readSource(p)
	return p[:n], err
}

func (a *attempt) mustWait() bool {
	b := a.body
	return b.live == a && !a.closed && (b.held || b.reading && a.read >= b.size)
}

// recorded answers a Read without the caller's body, if possible.
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
	if a.offset == len(a.body.list[a.chunk].data) {
		a.chunk, a.offset = a.chunk+1, 0
	}
	c := a.body.list[a.chunk]
	got := c.data[a.offset:]
	if inPlace {
		a.lend(c)
	} else {
		got = p[:copy(p, got)]
	}
	a.offset += len(got)
	a.read += int64(len(got))
	return got
}

// room returns where to read the caller's body into: a chunk of the recording, if the
// bytes will be kept and the chunk has as much room as some readers demand, or else a
// spare chunk.
func (a *attempt) room() []byte {
	c := a.body.place()
	if c == nil {
		c = a.spare()
	}
	a.lend(c)
	return c.free()
}

// spare returns a chunk outside the recording, for bytes that are not kept. It is
// recycled when the lending ends.
func (a *attempt) spare() *chunk {
	size := spareSize
	if a.whole() { // only the end of the body remains to read
		size = smallestChunk
	}
	c := a.lent
	if c == nil || len(c.free()) < size {
		c = newChunk(int64(size))
		c.dropped = true
	}
	return c
}

var (
	errPanicked = errors.New("tokentripper: Read of the request body panicked")
	errBadCount = errors.New("tokentripper: Read of the request body returned an impossible count")
)

// readSource reads the caller's body, whose Read may panic or end the goroutine.
func (a *attempt) readSource(p []byte) (n int, err error) {
	err = errPanicked
	defer func() { n, err = a.arrived(p, n, err) }()
	return a.body.src.Read(p)
}

// arrived handles what a Read of the caller's body returned. WriteTo gets the end only
// with its next read, after the bytes are written.
func (a *attempt) arrived(p []byte, n int, err error) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.cond.Broadcast()
	if n < 0 || n > len(p) {
		n, err = 0, errBadCount
	}
	b.reading, b.end = false, err
	switch p := p[:n]; {
	case b.live == nil: // given up
		return 0, a.cut()
	case b.live != a: // cut off meanwhile: it is the next attempt's
		b.keep(p, true)
		b.trim() // the next one may be closed already
		return 0, a.cut()
	case b.held: // Hold has promised that nothing is dropped
		b.keep(p, true)
	case b.wanted():
		b.dropped = !b.keep(p, false)
		b.fit(a.lent)
	default:
		b.dropped = true
	}
	a.read += int64(n)
	if a.lent != nil {
		return n, nil
	}
	a.end(err)
	return n, err
}

func (a *attempt) end(err error) {
	a.ended = err == io.EOF
	if a.ended && a.trailer != nil {
		maps.Copy(a.trailer, a.body.caller)
	}
}

// whole reports whether the attempt has read the whole body. If there is a
// Content-Length, a server has the whole body, and may answer, before the attempt sees
// io.EOF.
func (a *attempt) whole() bool {
	return a.ended || a.body.length > 0 && a.read >= a.body.length
}

// cut returns what the attempt reads after another has replaced it: io.EOF if nothing
// is missing, because then its connection can be used again; otherwise ErrCut.
func (a *attempt) cut() error {
	if a.whole() {
		return io.EOF
	}
	return ErrCut
}

// Answered notes that RoundTrip has returned.
func (a *attempt) Answered() { a.gate.open() }

// Close closes the caller's body if this is the last attempt or the body has ended. If
// that is not decided yet, Close only notes the call. Before the body's end it first
// waits a moment for the answer, see [gate].
func (a *attempt) Close() error {
	b := a.body
	b.mu.Lock()
	early := a.read > 0 && !a.ended && (b.end == nil || b.end == io.EOF) && b.live == a && !a.closed
	b.mu.Unlock()
	if early {
		a.gate.wait(b.ctx)
	}
	b.mu.Lock()
	a.closed = true
	now := b.end != nil || b.owners == 0 && b.live == a
	b.trim()
	b.cond.Broadcast()
	b.mu.Unlock()
	if now {
		return b.closeSource()
	}
	return nil
}
