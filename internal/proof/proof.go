// Package proof tells a token request's sender that a proof of possession went
// along with it (RFC 9449), whatever stands between the two.
package proof

import (
	"context"
	"sync/atomic"
)

type key struct{}

// Watch returns a context for a request, and whether it has been [Sent] with a
// proof so far.
func Watch(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, key{}, sent), sent
}

// Sent notes that a request with this context is sent with a proof.
func Sent(ctx context.Context) {
	if sent, ok := ctx.Value(key{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}
