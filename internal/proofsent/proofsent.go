// Package proofsent marks the context of a token request that is sent with a proof
// of possession (RFC 9449), so that its sender learns of the proof, whatever stands
// between the two.
package proofsent

import (
	"context"
	"sync/atomic"
)

type key struct{}

// Watch returns a context for a request, and whether it has been [Mark]ed with a
// proof so far.
func Watch(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, key{}, sent), sent
}

// Mark notes that a request with this context is sent with a proof.
func Mark(ctx context.Context) {
	if sent, ok := ctx.Value(key{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}
