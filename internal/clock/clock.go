// Package clock tells when a moment has come, by two clocks.
//
// A [time.Time] from time.Now has a reading of each: of the wall clock, which people
// and NTP set forward and back, and of the monotonic clock, which runs evenly but
// stands still while a machine is suspended. Package time compares by the monotonic
// clock alone if it can. Here a moment has come when either clock says so: a token that
// expired during a suspension is expired, and a pause ends even if the wall clock was
// set back during it.
package clock

import (
	"context"
	"time"
)

// Passed reports whether t has come. Now must come from time.Now, and t from now.Add of
// an earlier now or from [Anchor]. The zero Time has come.
func Passed(now, t time.Time) bool {
	return !now.Before(t) || !now.Round(0).Before(t.Round(0))
}

// Anchor returns t with a reading of the monotonic clock that is as far from now as the
// wall clock says. It is for a time without a reading, such as one from JSON. Anchor
// returns t unchanged if t has a reading, is zero, or is too far away to have one.
func Anchor(now, t time.Time) time.Time {
	if t.IsZero() || t != t.Round(0) {
		return t
	}
	if left := t.Sub(now); now.Round(0).Add(left).Equal(t) {
		return now.Add(left)
	}
	return t
}

// Wait waits until done, if not nil, is closed, d has passed or ctx has ended. It returns
// ctx's error.
func Wait(ctx context.Context, done <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}
