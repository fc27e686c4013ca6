// Package proofsent marks the context of a token request that is sent with a proof of
// possession (RFC 9449). The sender of the request thus learns of the proof, whatever
// layers are between the two.
package proofsent

import (
	"context"
	"sync/atomic"
)

type key struct{}

// Watch returns a context for a request, and a flag that is set once the request was
// [Mark]ed as sent with a proof.
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
