package faults_test

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// eventually waits until ok, for 30 s at most, and reports whether it came.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(30 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// leavesNothing checks that no goroutine is left when the test has ended and all
// that it starts after this call is closed.
func leavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if !eventually(func() bool { return runtime.NumGoroutine() <= before }) {
			t.Errorf("%d goroutines are left, want %d:\n\n%s", runtime.NumGoroutine(), before, strings.Join(stacks(), "\n\n"))
		}
	})
}

// stacks returns the stack of each goroutine.
func stacks() []string {
	buf := make([]byte, 16<<20)
	return strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
}
