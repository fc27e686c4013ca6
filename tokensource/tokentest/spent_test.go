package tokentest

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// This test is inside the package: nothing outside shows how much is remembered.
func TestSpentIDsAreForgottenWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spent := newSpentIDs()
		for i := range 10_000 {
			if !spent.spend(strconv.Itoa(i), time.Now().Add(time.Minute)) {
				t.Fatalf("got id %d refused; want it spent for the first time", i)
			}
			time.Sleep(time.Second)
		}
		if got := len(spent.until); got > 4*minSweep {
			t.Errorf("got %d ids remembered; want at most %d", got, 4*minSweep)
		}
		if spent.spend("9999", time.Now()) {
			t.Error("got an id spent twice; want it refused")
		}
	})
}
