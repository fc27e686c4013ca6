package transport_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// No goroutine of this module is left after the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftGoroutines(10 * time.Second); len(left) > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines are left, want none:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of the goroutines that run, or were started by, code of this
// module, after giving them time to end.
func leftGoroutines(patience time.Duration) []string {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		left := moduleGoroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		runtime.GC()
	}
}

func moduleGoroutines() (stacks []string) {
	buf := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, pkg := range []string{"transport", "tokensource", "internal/replay"} {
			if strings.Contains(stack, "tokentripper/tokentripper/"+pkg+".") {
				stacks = append(stacks, stack)
				break
			}
		}
	}
	return stacks
}
