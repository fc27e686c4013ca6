package tokensource

import (
	"context"
	"errors"
	"fmt"
)

// A Store keeps values that many processes share: the tokens of [Stored]. It is safe
// for concurrent use. The packages filestore, pgstore and redisstore have one each.
// Package storetest tests a Store that you write.
//
// Keys are printable ASCII, at most 255 bytes. Values are secret, and a few KiB of any
// bytes.
type Store interface {
	// Load returns the value of key as last saved, or nil if there is none.
	Load(ctx context.Context, key string) ([]byte, error)

	// Update locks key, calls fn with its value, or with nil if there is none, and
	// unlocks key when fn has returned or panicked. It returns fn's error.
	//
	// If another caller, in this or another process, holds the lock, Update does not
	// wait. It returns an error that wraps ErrLocked and does not call fn. It does not
	// call fn either if the store knows that it cannot save.
	//
	// ctx has a deadline. The lock lasts a little longer, even if the process is
	// killed, and then becomes free. Only the end of ctx stops a save.
	//
	// save replaces the value. fn may call it again after an error. If the lock is
	// lost, or the value is no longer the one that fn received or has saved, save
	// replaces nothing and returns an error that wraps ErrLocked.
	Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error
}

// ErrLocked says that another process or caller holds the lock of a key.
var ErrLocked = errors.New("tokensource: the key is locked")

// A StoreError is a failure of a [Store], or a value in it that is unusable. It holds
// nothing of the value.
type StoreError struct {
	// Op is the operation that failed: "load", "update", "save" or "decode". "decode"
	// means that the value is not from this package, was cut short, or has a newer
	// version. Such a value is never overwritten.
	Op string

	// Key is the key in the Store.
	Key string

	// Err is the reason.
	Err error
}

// storeError returns a Store's failure. If a Store around it reports an unusable value,
// it returns that error, which does not mean that the Store is unavailable.
func storeError(op, key string, err error) *StoreError {
	err = sound(err)
	if e, _ := errors.AsType[*StoreError](err); e != nil && e.Op == opDecode {
		return e
	}
	return &StoreError{op, key, err}
}

const opLoad, opUpdate, opSave, opDecode = "load", "update", "save", "decode"

// Error returns the operation and the reason.
func (e *StoreError) Error() string {
	return fmt.Sprintf("tokensource: store: %s of key %q: %v", e.Op, e.Key, e.Err)
}

// Unwrap returns Err.
func (e *StoreError) Unwrap() error { return e.Err }
