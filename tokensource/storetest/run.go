// Package storetest tests a [tokensource.Store], and has one in memory.
//
// [Run] tests the contract, in a few seconds. [Processes] shares a refresh token that
// rotates among many processes, some of which are killed. [Endure] does so while
// the store's server fails. A store in, say, directories is tested by
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) func() tokensource.Store {
//			dir := t.TempDir()
//			return func() tokensource.Store { return &Store{Dir: dir} }
//		})
//	}
//
//	func TestProcesses(t *testing.T) {
//		storetest.Processes(t, (*testing.T).TempDir, func(dir string) tokensource.Store {
//			return &Store{Dir: dir}
//		})
//	}
package storetest

import (
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Run tests that a store keeps the contract of [tokensource.Store], and that it
// serves [tokensource.Stored]. Each subtest is named after a behaviour.
//
// open makes a new, empty place to keep values, and returns a function that
// opens it once more, as another process would: the stores that it returns share
// nothing but the values. What needs to be closed or removed is left to t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) func() tokensource.Store) {
	for _, b := range append(contract(), shared()...) {
		t.Run(b.name, func(t *testing.T) {
			b.test(t, func() opener { return open(t) })
		})
	}
}

// A behaviour is one subtest of Run. It makes the places that it needs.
type behaviour struct {
	name string
	test func(t *testing.T, place func() opener)
}

// An opener opens one place again and again.
type opener = func() tokensource.Store
