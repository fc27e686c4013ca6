// Package storetest tests a [tokensource.Store], and has one in memory.
//
// Begin with [Run] and [Processes]. Run tests the contract, in a few seconds. Processes
// shares a rotating refresh token among many processes, some of which are killed.
// [Endure] does the same while the store's server fails. For example, test a store in
// directories by
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
//
// [Memory] is a store for tests of your own.
package storetest

import (
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Run tests that a store keeps the contract of [tokensource.Store] and works with
// [tokensource.Stored]. Each subtest is named after a behaviour.
//
// open makes a new, empty place for values. It returns a function that opens this place
// again, as another process would: the stores that it returns share nothing but the
// values. Use t.Cleanup to close or remove things.
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

// An opener opens the same place again and again.
type opener = func() tokensource.Store
