package replay

import "sync/atomic"

// A Budget counts the memory of all recordings of one owner. The zero Budget is empty.
type Budget struct{ used atomic.Int64 }

// Used returns the number of bytes in use.
func (b *Budget) Used() int64 { return b.used.Load() }

// Take takes n bytes, or as many as are left up to limit, and returns how many.
func (b *Budget) Take(n, limit int64) int64 {
	for {
		used := b.used.Load()
		n := max(0, min(n, limit-used))
		if b.used.CompareAndSwap(used, used+n) {
			return n
		}
	}
}

// Give returns n bytes.
func (b *Budget) Give(n int64) { b.used.Add(-n) }
