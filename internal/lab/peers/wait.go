package main

import (
	"context"
	"time"
)

// until waits for what another goroutine is about to do.
func until(ctx context.Context, reached func() bool) error {
	for !reached() {
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
