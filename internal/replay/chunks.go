package replay

import "sync"

// Chunks are the recorded bytes, in pieces of memory that come from pools and return
// there.
//
// A chunk that returns to its pool becomes memory of another request, so it returns
// only when no code can still touch it. Read copies under the recording's lock from and
// to its caller's buffer. So no base holds a chunk through Read, however late it reads.
// Only WriteTo uses chunks without the lock, and it lends each chunk to itself for that
// time. A chunk returns at the later of two moments: when the list has let go of it,
// and when its last lending has ended.
//
//   - release lets go of the chunks before the position of the only attempt that may
//     still read, or of all chunks if there is no such attempt: [recording.trim] says
//     when. An attempt that was cut off, closed or given up sees its state when it
//     takes the lock, before it looks at a chunk.
//   - shrink replaces the chunk that the Read of WriteTo has just filled, while it is
//     lent.
//   - lend ends a lending when the writer or the caller's Read has returned: by the
//     contracts of [io.Writer] and [io.Reader] neither keeps its argument. If one of
//     them panics, the lending never ends, and the chunk is left to the garbage
//     collector. The same is true if a base drops a body without Close.
//   - The spare, WriteTo's own buffer, is in no list: it returns when its lending ends.
type chunks struct {
	list  []*chunk
	few   [6]*chunk // the list of most bodies, without an allocation
	gone  int       // chunks at the beginning that the list has let go of, now nil
	size  int64     // bytes recorded since the beginning
	taken int64     // bytes of memory, as counted in the budget
}

// A chunk is a piece of memory. Its bytes are used only under the recording's lock, or
// while the chunk is lent, so that no code reads or writes a chunk that has returned to
// its pool. data holds what was recorded; nothing beyond it is read.
type chunk struct {
	data    []byte
	counted int64 // bytes taken from the budget: all bytes of the chunk, or none
	lent    int   // how many attempts write from it or read into it
	dropped bool  // to be recycled once it is not lent
}

// Sizes of chunks, in bytes.
const (
	smallestChunk = 4 << 10
	largestChunk  = 256 << 10
	roomySize     = 64 << 10 // what the first Read of a body of unknown length may fill
	spareSize     = 32 << 10
)

// pools has one pool for each size: smallestChunk, and then twice the size before.
var pools [7]sync.Pool

// pool returns the pool for chunks of n bytes, or nil.
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

// free returns the unused space of a chunk.
func (c *chunk) free() []byte { return c.data[len(c.data):cap(c.data)] }

// giveBack ends one lending.
func (c *chunk) giveBack() {
	c.lent--
	if c.dropped && c.lent == 0 {
		c.recycle()
	}
}

// drop recycles the chunk once it is not lent.
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

// last returns the last chunk, or nil if the list has let go of it.
func (s *chunks) last() *chunk {
	if s.gone == len(s.list) {
		return nil
	}
	return s.list[len(s.list)-1]
}

// grown returns the size of the next chunk: for what is left of the body, if that is
// known; else for n bytes, or for as many bytes as are already recorded.
func (s *chunks) grown(left, n int64) int64 {
	if left > 0 {
		return sized(left)
	}
	return sized(max(n, s.size))
}

// sized returns the size of the smallest chunk with room for n bytes, or else the
// largest size.
func sized(n int64) int64 {
	size := int64(largestChunk)
	for size > smallestChunk && size/2 >= n {
		size /= 2
	}
	return size
}

// add appends a chunk of n bytes, and notes how many bytes of the budget it has.
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

// shrink replaces the last chunk with one of the right size for a body of that size, or
// removes it if it is empty. It returns how many bytes of the budget become free.
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

// release lets go of the first n chunks, and returns how many bytes of the budget they
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
