package storetest

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/tokentripper/tokentripper/tokensource"
)

// faults is a Store whose operations fail. Before each operation it asks a fault, which
// returns the error to use instead, or nil for none.
type faults struct {
	tokensource.Store
	load, save fault
}

type fault func() error

func (f fault) strike() error {
	if f == nil {
		return nil
	}
	return f()
}

var errFault = errors.New("storetest: a fault")

// failures fails n times.
func failures(n int32) fault { return times(n, errFault) }

// lost loses the lock n times.
func lost(n int32) fault { return times(n, tokensource.ErrLocked) }

func times(n int32, err error) fault {
	var struck atomic.Int32
	return func() error {
		if struck.Add(1) > n {
			return nil
		}
		return err
	}
}

func (f *faults) Load(ctx context.Context, key string) ([]byte, error) {
	if err := f.load.strike(); err != nil {
		return nil, err
	}
	return f.Store.Load(ctx, key)
}

func (f *faults) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return f.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(value []byte) error {
			if err := f.save.strike(); err != nil {
				return err
			}
			return save(value)
		})
	})
}
