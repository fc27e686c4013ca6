package transport

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// A beginning is a response's body. It reads the beginning of the body ahead of the
// caller, who later reads it as if nothing had happened.
//
// One goroutine reads ahead. [newBeginning] waits for it within bounds. When a bound is
// reached, the Read in progress is the last one ahead, and the caller's Read continues
// with its result. Only closing the body could interrupt that Read.
//
// The Read in progress writes the trailers into the response of net/http. So the caller
// gets a copy of the response, whose trailers appear when the caller reads the end: see
// settled.
type beginning struct {
	from  *http.Response
	copy  http.Response
	rest  io.ReadCloser
	begun chan struct{} // closed when the first byte has arrived
	done  chan struct{} // closed when reading ahead has ended
	value []byte        // the JSON, or nil; fixed once newBeginning has returned

	mu     sync.Mutex // guards what follows
	data   []byte     // what was read ahead
	taken  int        // how many bytes of data the caller has read
	err    error      // the error that ended reading ahead
	scan   jsonScan
	stop   bool // end reading ahead
	closed bool
}

// Bounds of reading ahead, in bytes and in time.
const (
	maxBeginning   = 64 << 10
	firstBeginning = 2 << 10 // nearly all refusals are shorter
	beginWithin    = time.Second
	endWithin      = 50 * time.Millisecond
)

// newBeginning reads the beginning of a response's body until it has a whole JSON
// object or list, is known to be neither, or reaches a bound.
func newBeginning(resp *http.Response) *beginning {
	b := &beginning{
		from:  resp,
		copy:  *resp,
		rest:  resp.Body,
		begun: make(chan struct{}),
		done:  make(chan struct{}),
		data:  make([]byte, 0, cmp.Or(max(0, resp.ContentLength), firstBeginning)),
	}
	ctx := context.Background()
	if resp.Request != nil {
		ctx = resp.Request.Context()
	}
	resp.Body, b.copy.Body = b, b
	go b.readAhead()
	b.wait(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop = true
	b.value = b.scan.value(b.data)
	return b
}

// settled returns a response that only the caller changes.
func settled(resp *http.Response) *http.Response {
	b, ok := resp.Body.(*beginning)
	if !ok || resp != b.from {
		return resp
	}
	closeEnds(resp)
	return &b.copy
}

// wait waits until enough was read or a bound is reached.
func (b *beginning) wait(ctx context.Context) {
	timer := time.NewTimer(beginWithin)
	defer timer.Stop()
	select {
	case <-b.begun:
	case <-b.done:
	case <-ctx.Done():
	case <-timer.C:
		return
	}
	clock.Wait(ctx, b.done, endWithin)
}

func (b *beginning) readAhead() {
	defer close(b.done)
	for b.readOnce() {
	}
}

// readOnce reads once and reports whether to read on.
func (b *beginning) readOnce() bool {
	n, err := b.read(b.room())
	b.mu.Lock()
	defer b.mu.Unlock()
	first := len(b.data) == 0 && n > 0
	b.data, b.err = b.data[:len(b.data)+n], err
	decided := b.scan.readOn(b.data)
	if first {
		close(b.begun)
	}
	return !decided && err == nil && !b.stop && len(b.data) < maxBeginning
}

// room returns the free space for the next Read. The caller may read the bytes before
// it at the same time.
func (b *beginning) room() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = slices.Grow(b.data, 1)
	return b.data[len(b.data):min(cap(b.data), maxBeginning)]
}

var (
	errPanicked = errors.New("transport: Read of the response body panicked")
	errBadCount = errors.New("transport: Read of the response body returned an impossible count")
)

// read reads the body and recovers from a panic of its Read, because a panic in this
// goroutine would end the process.
func (b *beginning) read(p []byte) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = errPanicked
		}
	}()
	n, err = b.rest.Read(p)
	if n < 0 || n > len(p) {
		return 0, errBadCount
	}
	return n, err
}

// Read returns what was read ahead, then reads on.
func (b *beginning) Read(p []byte) (int, error) {
	defer b.arrived()
	held, err := b.held()
	switch {
	case err != nil:
		return 0, err
	case len(held) == 0:
		return b.rest.Read(p)
	}
	n := copy(p, held)
	b.take(n)
	return n, nil
}

// WriteTo writes what Read would return. The rest is copied as without the beginning:
// by its own WriteTo, or by the ReadFrom of w.
func (b *beginning) WriteTo(w io.Writer) (written int64, err error) {
	defer b.arrived()
	for {
		held, err := b.held()
		switch {
		case err == io.EOF:
			return written, nil
		case err != nil:
			return written, err
		case len(held) == 0:
			n, err := io.Copy(w, b.rest)
			return written + n, err
		}
		n, err := w.Write(held)
		n = min(max(n, 0), len(held))
		written += int64(n)
		b.take(n)
		if err == nil && n < len(held) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// arrived gives the copy the trailers that have arrived, unless a Read is still in
// progress.
func (b *beginning) arrived() {
	if b.ended() {
		b.copy.Trailer = b.from.Trailer
	}
}

// held returns the bytes read ahead that the caller has not read yet, or the error that
// follows them. Without either, all other bytes are in rest.
func (b *beginning) held() ([]byte, error) {
	p, err := b.heldNow()
	if len(p) == 0 && err == nil {
		<-b.done
		return b.heldNow()
	}
	return p, err
}

func (b *beginning) heldNow() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := slices.Clip(b.data[b.taken:])
	switch {
	case b.closed:
		return nil, http.ErrBodyReadAfterClose
	case len(p) == 0 && b.ended():
		return nil, b.err
	}
	return p, nil
}

func (b *beginning) take(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken += n
}

func (b *beginning) ended() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// whole reports whether the body was read to its end: its connection may then be back
// in the pool.
func (b *beginning) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err == io.EOF
}

// Close closes the body. It does not wait for a Read in progress: net/http's Close
// would wait if it decompresses and no data arrives (as of Go 1.26).
func (b *beginning) Close() error {
	ended := b.ended()
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	if !ended {
		go b.rest.Close()
		return nil
	}
	return b.rest.Close()
}

// A jsonScan finds the end of a JSON object or list as its bytes arrive.
type jsonScan struct {
	at, begin, depth         int
	quoted, escaped, decided bool
}

// readOn scans the new bytes. It reports whether the scan is decided: it has found the
// end, or the data is neither an object nor a list.
func (s *jsonScan) readOn(data []byte) bool {
	for ; s.at < len(data) && !s.decided; s.at++ {
		switch c := data[s.at]; {
		case s.escaped:
			s.escaped = false
		case s.quoted:
			s.escaped, s.quoted = c == '\\', c != '"'
		case c == '{' || c == '[':
			s.depth++
		case s.depth == 0:
			s.begin++
			s.decided = bytes.IndexByte([]byte(" \t\r\n"), c) < 0
		case c == '}' || c == ']':
			s.depth--
			s.decided = s.depth == 0
		case c == '"':
			s.quoted = true
		}
	}
	return s.decided
}

// value returns the object or list if the data consists of nothing else.
func (s *jsonScan) value(data []byte) []byte {
	if len(bytes.TrimRight(data[s.at:], " \t\r\n")) > 0 || !json.Valid(data[s.begin:s.at]) {
		return nil
	}
	return slices.Clip(data[s.begin:s.at])
}
