//go:build unix || windows

package filestore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// An update is one call of Update, which holds the lock.
type update struct {
	ctx  context.Context
	dir  string
	lock *flock.Flock

	mu    sync.Mutex // guards what follows: fn may leave a save behind that runs later
	over  bool       // the lock is gone
	value []byte     // the content of the file
	next  *os.File   // room for the next value; nil after a save
}

// begin locks the directory of a key, and prepares a save.
func begin(ctx context.Context, dir string) (*update, error) {
	// Its own Flock, because goroutines that share one do not exclude each other.
	u := &update{ctx: ctx, dir: dir}
	u.lock = flock.New(u.path(lockFile), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	locked, err := u.lock.TryLock()
	if err != nil {
		return nil, wrap(err)
	}
	if !locked {
		return nil, errLocked
	}
	if err := u.prepare(); err != nil {
		u.end()
		return nil, err
	}
	return u, nil
}

func (u *update) prepare() (err error) {
	if err := u.sweep(); err != nil {
		return err
	}
	if u.value, err = read(u.ctx, u.path(tokenFile)); err != nil {
		return err
	}
	return u.reserve()
}

// end releases the lock.
func (u *update) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = true
	u.drop()
	u.lock.Close()
}

// sweep removes files that killed processes have left.
func (u *update) sweep() error {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return wrap(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), pendingPrefix) {
			if err := persist(u.ctx, readTime, func() error { return os.Remove(u.path(e.Name())) }); err != nil {
				return wrap(err)
			}
		}
	}
	return nil
}

// pendingPrefix begins the name of a file that will replace another.
const pendingPrefix = "." + tokenFile

// reserved has room for all but unusual values.
const reserved = 16 << 10

// reserve makes a file for the next value with room for it, so that a full disk, a
// quota or a read-only file system causes an error before fn is called.
func (u *update) reserve() error {
	next, err := os.CreateTemp(u.dir, pendingPrefix)
	if err != nil {
		return wrap(err)
	}
	u.next = next
	err = next.Chmod(0o600) // whatever the umask is
	if err == nil {
		err = allocate(next, max(reserved, 2*len(u.value)))
	}
	if err != nil {
		u.drop()
		return wrap(err)
	}
	return nil
}

// drop removes the file for the next value, if there is one.
func (u *update) drop() {
	if u.next != nil {
		u.next.Close()
		os.Remove(u.next.Name())
		u.next = nil
	}
}

// save replaces the value.
func (u *update) save(value []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.lost(); err != nil {
		return err
	}
	if u.next == nil {
		if err := u.reserve(); err != nil {
			return err
		}
	}
	defer u.drop()
	if err := u.replace(value); err != nil {
		return wrap(err)
	}
	u.next = nil
	u.value = append([]byte{}, value...)
	return syncDir(u.dir)
}

// replace overwrites the reserved space with the value.
func (u *update) replace(value []byte) error {
	if _, err := u.next.WriteAt(value, 0); err != nil {
		return err
	}
	if err := u.next.Truncate(int64(len(value))); err != nil {
		return err
	}
	if err := u.next.Sync(); err != nil {
		return err
	}
	if err := u.next.Close(); err != nil {
		return err
	}
	return persist(u.ctx, forEver, func() error { return rename(u.next.Name(), u.path(tokenFile)) })
}

// lost returns an error if the value must not be replaced any more: a user may have
// removed the lock or changed the value by hand.
func (u *update) lost() error {
	if u.over {
		return errLocked
	}
	if err := u.ctx.Err(); err != nil {
		return err
	}
	locked, err := u.lock.Stat()
	if err != nil {
		return wrap(err)
	}
	present, err := os.Stat(u.path(lockFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(locked, present) {
		return errLocked
	}
	if err != nil {
		return wrap(err)
	}
	value, err := read(u.ctx, u.path(tokenFile))
	if err == nil && (!bytes.Equal(value, u.value) || (value == nil) != (u.value == nil)) {
		return errLocked
	}
	return err
}

func (u *update) path(name string) string { return filepath.Join(u.dir, name) }

// read returns the content of a file, or nil if there is none. It refuses a file that
// others could have read.
func read(ctx context.Context, path string) ([]byte, error) {
	var f *os.File
	err := persist(ctx, readTime, func() (err error) {
		f, err = os.Open(path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, wrap(err)
	}
	if err := errors.Join(shared(path, info), foreign(path, info)); err != nil {
		return nil, err
	}
	value, err := io.ReadAll(f)
	if err != nil {
		return nil, wrap(err)
	}
	return value, nil
}

const (
	readTime = time.Second
	forEver  = time.Duration(1<<63 - 1)
)

// persist calls fn until no other program prevents it, until ctx ends, or until the
// time is over.
func persist(ctx context.Context, most time.Duration, fn func() error) error {
	for begin := time.Now(); ; {
		err := fn()
		if err == nil || !busy(err) || time.Since(begin) >= most {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
