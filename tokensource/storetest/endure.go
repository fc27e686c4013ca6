package storetest

import (
	"context"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Endure is one long scenario of [Processes], with a store whose server fails
// meanwhile: the given number of processes rotate a refresh token the given number of
// times, and are killed at random moments. Endure calls disturb once, at the same time.
// For example, disturb ends connections or makes the server fail over. It must return
// soon after ctx has ended.
//
// Requests may fail while the server is unavailable. No user may be logged out, except
// by kills that no store can help, which are counted.
func Endure(t *testing.T, processes, rotations int, address func(t *testing.T) string, open func(address string) tokensource.Store,
	disturb func(ctx context.Context)) {
	p, parent := begin(t, address, open)
	if !parent {
		return
	}
	f := p.start(t, processes, short)
	f.disturbed = true
	f.work(f.workers...)
	f.awaitAnswers(1)
	ctx, stop := context.WithCancel(t.Context())
	var disturbance sync.WaitGroup
	disturbance.Go(func() { disturb(ctx) })
	end := func() { stop(); disturbance.Wait() }
	defer end()
	kills, windows := 0, 0
	for ; kills*rotationsPerKill < rotations; kills++ {
		f.awaitRotations(kills * rotationsPerKill)
		f.killAt(anyTime)
		if f.goesOn() {
			windows++
		}
	}
	f.awaitRotations(rotations)
	end()
	f.finish()
	t.Logf("%d workers killed; %d of these had a refresh token from the server that was not saved", kills, windows)
}

// rotationsPerKill leaves some time for the processes that rotate.
const rotationsPerKill = 10
