//go:build race || poisoned

package replay

// poison overwrites a chunk that goes back to its pool, so that a late reader
// reads what no body has, and the race detector sees it. Fuzzing does without
// that detector, but not without poison: go test -tags poisoned.
func poison(p []byte) {
	if len(p) == 0 {
		return
	}
	p[0] = 0xdb
	for done := 1; done < len(p); done *= 2 {
		copy(p[done:], p[:done])
	}
}
