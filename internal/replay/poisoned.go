//go:build race || poisoned

package replay

import "bytes"

// poison overwrites a chunk that goes back to its pool, so that a late reader
// reads what no body has, and the race detector sees it. Fuzzing does without
// that detector, but not without poison: go test -tags poisoned.
func poison(p []byte) { copy(p, poisonous) }

var poisonous = bytes.Repeat([]byte{0xdb}, largestChunk)
