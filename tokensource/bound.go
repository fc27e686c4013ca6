package tokensource

import (
	"context"
	"runtime"
	"strings"
	"sync"
)

// A bound context keeps the values that were read from it, first by [Keyed.Key]. It
// returns them even after a framework has reused the underlying context for another
// request.
type bound struct {
	context.Context

	mu   sync.Mutex // guards what follows
	read []reading
}

type reading struct{ key, value any }

// Value returns the value that was read first.
func (b *bound) Value(key any) any {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.read {
		if r.key == key {
			return r.value
		}
	}
	value := b.Context.Value(key)
	b.read = append(b.read, reading{key, value})
	return value
}

// insideNew reports whether the caller runs inside [Keyed.New] of any Keyed. Waiting
// there for a key that is being made might never end. It looks at the stack, because
// New has no context to pass on.
func insideNew() bool {
	stack := make([]uintptr, 1000)
	frames := runtime.CallersFrames(stack[:runtime.Callers(1, stack)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, ".(*Keyed[...]).create") {
			return true
		}
		if !more {
			return false
		}
	}
}
