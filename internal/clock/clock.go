// Package clock tells when a moment has come, by two clocks.
//
// A [time.Time] of time.Now has a reading of both: of the wall clock, which
// people and NTP set forward and back, and of the monotonic clock, which goes on
// evenly but stands still while a machine is suspended. Package time compares by
// the monotonic clock alone if it can. Here a moment has come when either clock
// says so: a token that expired during a suspension is over, and so is a pause
// whose end the wall clock was set back from.
package clock

import "time"

// Passed reports whether t has come. now is what time.Now has returned, t is
// now.Add of an earlier now, or what [Anchor] made of another time. The zero Time
// has come.
func Passed(now, t time.Time) bool {
	return !now.Before(t) || !now.Round(0).Before(t.Round(0))
}

// Anchor returns t with a reading of the monotonic clock, which one that was read
// from JSON or that has lost it lacks: as far from now as the wall clock says. A
// time that has a reading, and the zero Time, it returns as they are, and so one
// too far away to have any.
func Anchor(now, t time.Time) time.Time {
	if t.IsZero() || t != t.Round(0) {
		return t
	}
	if left := t.Sub(now); now.Round(0).Add(left).Equal(t) {
		return now.Add(left)
	}
	return t
}
