package tokensource

import (
	"context"
	"runtime"
	"strings"
	"sync"
)

// A bound context answers as before for the values that were read of it, first by [Keyed.Key], even if
// a framework has begun to use it for another request.
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

// insideNew reports whether the caller was called by [Keyed.New], of this or another Keyed. To wait there
// for a key that is being made might never end. The stack tells, because New has no context to pass on.
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
