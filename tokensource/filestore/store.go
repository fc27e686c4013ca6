//go:build unix || windows

// Package filestore keeps tokens in files, for the processes of one machine. Pass a
// [Store] to a [tokensource.Stored]:
//
//	source := &tokensource.Cache{Source: &tokensource.Stored{
//		Source: &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: initial},
//		Store:  &filestore.Store{Dir: "/var/lib/myservice/tokens"},
//		Key:    "billing",
//	}}
//
// It is for Unix and Windows: other systems have no locks that end with a process.
package filestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A Store is a [tokensource.Store] in a directory. It survives the death of a process
// at any moment, and a crash of the machine: it writes a value beside the old one,
// syncs it, and renames it. The lock of a dead process is free at once.
//
// A Store trusts only its own user and root. It returns an error that names a directory
// or file that belongs to another user, a directory that others can write to, or a file
// that others can read. It does not check the directories above Dir: a user who can
// write there can replace Dir. Every process of the same user can read the tokens.
// [tokensource.Encrypted] over a Store prevents that if its key is kept elsewhere.
//
// Locks are those of flock(2), and on Windows of LockFileEx. Keep Dir on a local file
// system: on a network file system, flock may exclude no process, or no process on
// other machines, and a lock may be lost with the connection. For processes on many
// machines use package redisstore or pgstore. If files in Dir are removed while
// processes run, their locks are lost as well: a save then fails if it detects this.
// Windows does not remove a file with a held lock.
//
// Windows differs in these points:
//   - File modes mean nothing. New directories have an access list that admits only the
//     user, SYSTEM and the Administrators group, and files in them inherit it. An
//     existing Dir keeps its own list, which the Store does not check: it refuses only
//     files and directories that belong to others than these three.
//   - A file cannot be replaced while a program, such as a virus scanner, has it open.
//     A save tries again until its context ends; a read tries for a second.
//   - A value is flushed, then renamed by MoveFileEx with MOVEFILE_WRITE_THROUGH. NTFS
//     keeps a journal of names, so that after a crash either the old or the new value
//     is there. Microsoft promises neither this nor that the replacement is atomic. FAT
//     has no journal: keep Dir on NTFS or ReFS.
//   - The lock of a dead process is free when Windows has closed its files, usually at
//     once.
//
// If a crash or a restored backup brings back an old refresh token that the server has
// ended, the user must log in again.
type Store struct {
	// Dir is the directory. The first Update makes it, with missing directories above
	// it, with mode 0700. Each key has a directory in Dir, named by a hash of the key,
	// which is never removed.
	Dir string
}

// Names in the directory of a key. The lock has its own file, because the token file is
// replaced.
const (
	tokenFile = "token"
	lockFile  = "lock"
)

// Load returns the value of key. If Dir does not exist, it returns nil.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := s.dir(key)
	if err == nil {
		err = s.check(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return read(ctx, filepath.Join(dir, tokenFile))
}

// Update calls fn with the lock of key, after it has reserved disk space for a value:
// 16 KiB, or twice the size of the last value. On Linux it reserves the space with
// fallocate(2), if the file system supports that. Then a disk that fills up meanwhile
// does not stop the save, not even on btrfs. Elsewhere it writes zeros, for which a
// file system that compresses or copies on write, such as ZFS, may reserve no space.
func (s *Store) Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := s.dir(key)
	if err != nil {
		return err
	}
	if err := s.make(dir); err != nil {
		return err
	}
	u, err := begin(ctx, dir)
	if err != nil {
		return err
	}
	defer u.end()
	return fn(u.value, u.save)
}

// dir returns the directory of a key. It is named by a hash, because a key may hold any
// character, and some file systems do not distinguish a from A.
func (s *Store) dir(key string) (string, error) {
	if s.Dir == "" {
		return "", errors.New("filestore: Store.Dir is empty")
	}
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.Dir, hex.EncodeToString(sum[:])), nil
}

// make makes the directory of a key, so that it survives a crash.
func (s *Store) make(dir string) error {
	err := s.check(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeAll(dir); err != nil {
		return err
	}
	return s.check(dir)
}

// makeAll makes a directory and those above it, and syncs their parents.
func makeAll(dir string) error {
	parent := filepath.Dir(dir)
	err := mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeAll(parent); err != nil {
			return err
		}
		err = mkdir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may have been faster
		return wrap(err)
	}
	return syncDir(parent)
}

// check refuses directories where other users could put a token.
func (s *Store) check(dir string) error {
	for _, path := range []string{s.Dir, dir} {
		link, err := os.Lstat(path)
		if err != nil {
			return wrap(err)
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return wrap(err)
		case !info.IsDir():
			return fmt.Errorf("filestore: %s is not a directory", path)
		}
		if err := errors.Join(shared(path, info), foreign(path, link), foreign(path, info)); err != nil {
			return err
		}
	}
	return nil
}

func wrap(err error) error { return fmt.Errorf("filestore: %w", err) }

var errLocked = wrap(tokensource.ErrLocked)
