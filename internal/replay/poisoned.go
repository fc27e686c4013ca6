//go:build race || poisoned

package replay

import "bytes"

// poison overwrites a chunk that returns to its pool, so that a late reader reads what
// no body contains, and the race detector sees the write. Fuzzing runs without that
// detector, but with poison: go test -tags poisoned.
func poison(p []byte) { copy(p, poisonous) }

var poisonous = bytes.Repeat([]byte{0xdb}, largestChunk)
