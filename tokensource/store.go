package tokensource

import (
	"context"
	"errors"
	"fmt"
)

// A Store keeps values that many processes share: the tokens of [Stored]. It
// is safe for concurrent use. The packages filestore, pgstore and redisstore
// have one each; package storetest tests a new one.
//
// Keys are printable ASCII, at most 255 bytes. Values are a few KiB of any bytes,
// and secret.
type Store interface {
	// Load returns the value of key as it was last saved; nil if there is none.
	Load(ctx context.Context, key string) ([]byte, error)

	// Update locks key, calls fn with its value, nil if there is none, and
	// unlocks key when fn has returned or panicked. It returns fn's error.
	//
	// It does not wait for another holder of the lock, in this process or
	// another: then it returns an error that wraps ErrLocked, and fn is not
	// called. fn is not called either if the store knows that it cannot save.
	//
	// ctx has a deadline. The lock outlives it, but not for long: that of a process that was
	// killed is free again soon after. Nothing but ctx's end stops a save.
	//
	// save replaces the value. fn may call it again after an error. If the lock
	// is lost or the value is no longer what fn was given or has saved, save
	// replaces nothing and returns an error that wraps ErrLocked.
	Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error
}

// ErrLocked says that another process or caller has the lock of a key.
var ErrLocked = errors.New("tokensource: the key is locked")

// A StoreError is a failure of a [Store], or a value in it that cannot be used.
// It holds nothing of the value.
type StoreError struct {
	// Op is what failed: "load", "update" or "save"; or "decode" for a value that
	// is not one of ours, was cut short, or is of a newer version. Such a value is
	// never overwritten.
	Op string

	// Key is the key in the Store.
	Key string

	// Err tells why.
	Err error
}

// storeError is a Store's failure, or what a Store around it says of the value: that
// does not mean that the Store is away.
func storeError(op, key string, err error) *StoreError {
	err = sound(err)
	if e, _ := errors.AsType[*StoreError](err); e != nil && e.Op == opDecode {
		return e
	}
	return &StoreError{op, key, err}
}

const opLoad, opUpdate, opSave, opDecode = "load", "update", "save", "decode"

// Error tells what failed and why.
func (e *StoreError) Error() string {
	return fmt.Sprintf("tokensource: store: %s of key %q: %v", e.Op, e.Key, e.Err)
}

// Unwrap returns Err.
func (e *StoreError) Unwrap() error { return e.Err }
