package replay

import "sync/atomic"

// A Budget counts the memory of all recordings of one owner. The zero Budget is empty.
type Budget struct{ used atomic.Int64 }

// Used returns how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// take takes n bytes unless that would make more than limit.
func (b *Budget) take(n, limit int64) bool {
	if b.used.Add(n) > limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *Budget) give(n int64) { b.used.Add(-n) }
