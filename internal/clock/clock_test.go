package clock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

func TestAMomentPassesAtItsEndAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, at := range map[string]time.Time{
			"both clocks": now.Add(time.Minute),
			"wall":        now.Add(time.Minute).Round(0),
			"anchored":    clock.Anchor(now, now.Add(time.Minute).Round(0)),
		} {
			for after, want := range map[time.Duration]bool{time.Minute - 1: false, time.Minute: true, time.Hour: true} {
				if got := clock.Passed(now.Add(after), at); got != want {
					t.Errorf("%s, after %v: got %t, want %t", name, after, got, want)
				}
			}
		}
		if !clock.Passed(now, time.Time{}) {
			t.Error("the zero Time has not come, want that it has")
		}
	})
}

// A time that lacks the monotonic reading is compared by the wall clock alone,
// so a later time without one stands for a wall clock that was set forward.
func TestAMomentPassesByTheWallClockAlone(t *testing.T) {
	now := time.Now()
	if at := now.Add(time.Minute); !clock.Passed(now.Round(0).Add(time.Hour), at) {
		t.Error("an hour later by the wall clock, it has not come")
	}
}

func TestAnchorAddsAReadingAndKeepsOneThatIsThere(t *testing.T) {
	now := time.Now()
	at := now.Add(time.Minute)
	for name, test := range map[string]struct{ given, want time.Time }{
		"none":      {at.Round(0), at},
		"there":     {at, at},
		"zero":      {time.Time{}, time.Time{}},
		"past":      {now.Add(-time.Minute).Round(0), now.Add(-time.Minute)},
		"far away":  {time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
		"long past": {time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if got := clock.Anchor(now, test.given); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
