//go:build race

package replay

// poison overwrites a chunk that goes back to its pool, so that a late reader
// reads what no body has, and the race detector sees it.
func poison(p []byte) {
	for i := range p {
		p[i] = 0xdb
	}
}
