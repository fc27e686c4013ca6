package storetest_test

import (
	"context"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// The tests of a store, here of a netStore, whose values are at an address. Each call is
// in a test function of its own, whose parameter is t.
func Example() {
	var t *testing.T
	open := func(address string) tokensource.Store { return netStore(address) }

	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		address := serveMemory(t)
		return func() tokensource.Store { return open(address) }
	})
	storetest.Processes(t, serveMemory, open)
	storetest.Endure(t, 8, 200, serveMemory, open, func(ctx context.Context) {
		<-ctx.Done() // until then, make the server fail
	})
}
