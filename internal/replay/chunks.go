package replay

import "sync"

// Chunks are the recorded bytes, in pieces that come from pools and go back there.
//
// A pool's chunk is memory of another request, so it goes back only when nobody
// can touch it. Read copies under the recording's lock, from and into the buffer
// of who calls it: no base ever holds a chunk through Read, however late it
// reads. WriteTo alone uses chunks outside of the lock, and lends each to itself
// for that time. A chunk goes back at the later of two moments: when the list has
// let go of it, and when the last lending has ended.
//
//   - release lets go of the chunks that the only attempt that may still read is
//     past, or of all if there is none: [recording.trim] says when. An attempt that was
//     cut off, closed or given up finds its state changed when it takes the lock,
//     before it looks at any chunk.
//   - shrink replaces the chunk that the Read of WriteTo has just filled, which has it
//     lent.
//   - lend ends a lending when the writer, or the caller's Read,
//     has returned: by the contracts of [io.Writer] and [io.Reader] neither keeps what it
//     was given. If one of them panics the lending never ends, and the collector
//     has the chunk. So it has what a base forgets without Close.
//   - WriteTo's own buffer, the spare, is in no list: it goes back when its lending ends.
type chunks struct {
	list  []*chunk
	few   [6]*chunk // the list of most bodies, which then costs no allocation
	gone  int       // chunks at the beginning that were let go of, and are nil
	size  int64     // bytes recorded since the beginning
	taken int64     // bytes of memory, as counted in the budget
}

// A chunk is a piece of memory. Its bytes are used under the recording's lock, or
// while the chunk is lent: so nobody reads or writes one that has gone back to
// its pool. data has what was recorded, and nothing is read beyond it.
type chunk struct {
	data    []byte
	counted int64 // bytes of the budget: all of its own, or none
	lent    int   // how many attempts hand it to a writer, or read into it
	dropped bool  // to be recycled when nobody has it any more
}

// Sizes of chunks, in bytes.
const (
	smallestChunk = 4 << 10
	largestChunk  = 256 << 10
	roomySize     = 64 << 10 // what the first Read of a body of unknown length may fill
	spareSize     = 32 << 10
)

// pools has one for each size from smallestChunk, each twice the one before.
var pools [7]sync.Pool

// pool returns where chunks of n bytes come from, or nil.
func pool(n int64) *sync.Pool {
	for i := range pools {
		if n == smallestChunk<<i {
			return &pools[i]
		}
	}
	return nil
}

// newChunk returns an empty chunk of n bytes.
func newChunk(n int64) *chunk {
	if p := pool(n); p != nil {
		if c, ok := p.Get().(*chunk); ok {
			return c
		}
	}
	return &chunk{data: make([]byte, 0, n)}
}

// free is the room that a chunk has left.
func (c *chunk) free() []byte { return c.data[len(c.data):cap(c.data)] }

// giveBack ends one lending.
func (c *chunk) giveBack() {
	c.lent--
	if c.dropped && c.lent == 0 {
		c.recycle()
	}
}

// drop recycles the chunk, when nobody has it any more.
func (c *chunk) drop() {
	c.dropped = true
	if c.lent == 0 {
		c.recycle()
	}
}

func (c *chunk) recycle() {
	poison(c.data[:cap(c.data)])
	if p := pool(int64(cap(c.data))); p != nil {
		*c = chunk{data: c.data[:0]}
		p.Put(c)
	}
}

// last is the last chunk, unless it was let go of.
func (s *chunks) last() *chunk {
	if s.gone == len(s.list) {
		return nil
	}
	return s.list[len(s.list)-1]
}

// grown is the size of the next chunk: for what is left of the body, if that is
// known; else for n bytes, or for as many as there are already.
func (s *chunks) grown(left, n int64) int64 {
	if left > 0 {
		return sized(left)
	}
	return sized(max(n, s.size))
}

// sized is the size of the smallest chunk for n bytes, or of the largest there is.
func sized(n int64) int64 {
	size := int64(largestChunk)
	for size > smallestChunk && size/2 >= n {
		size /= 2
	}
	return size
}

// add appends a chunk of n bytes, of which so many count.
func (s *chunks) add(n, counted int64) *chunk {
	c := newChunk(n)
	c.counted = counted
	if s.list == nil {
		s.list = s.few[:0]
	}
	s.list = append(s.list, c)
	s.taken += counted
	return c
}

// shrink makes the last chunk as small as a body of that size needs, or none of it
// if it is empty. It returns how much less of the budget the chunk has.
func (s *chunks) shrink() (bytes int64) {
	c := s.last()
	before := s.size - int64(len(c.data))
	fit := sized(max(int64(len(c.data)), before))
	switch bytes = int64(cap(c.data)); {
	case len(c.data) == 0:
		s.list = s.list[:len(s.list)-1]
	case bytes > fit:
		small := newChunk(fit)
		small.data = append(small.data, c.data...)
		small.counted = fit
		s.list[len(s.list)-1] = small
		bytes -= fit
	default:
		return 0
	}
	c.drop()
	s.taken -= bytes
	return bytes
}

// release lets go of the first n chunks, and returns how much of the budget they
// had.
func (s *chunks) release(n int) (bytes int64) {
	for ; s.gone < n; s.gone++ {
		c := s.list[s.gone]
		s.list[s.gone] = nil
		bytes += c.counted
		c.drop()
	}
	s.taken -= bytes
	return bytes
}
