//go:build unix || windows

// Package filestore keeps tokens in files, for the processes of one machine.
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

// A Store is a [tokensource.Store] in a directory. It survives the death of a
// process at any moment, and a crash of the machine: a value is written beside
// the old one, synced, and renamed. The lock of a process that died is free at once.
//
// It trusts nobody but its own user and root. A directory or a file that belongs to another user, a directory that others
// can write, and a file that others can read are errors that name them. It does not look at what is above
// Dir: whoever can write there can put another directory in its place. Whoever is the user
// reads the tokens: [tokensource.Encrypted] over a Store helps if the key is
// kept elsewhere.
//
// Locks are those of flock(2), and on Windows of LockFileEx. Keep Dir on a local file system: on a network
// file system, flock may exclude nobody, or nobody on other machines, and a lock
// may be lost with the connection. For processes of many machines there is package
// redisstore. A Dir whose files are removed while processes run loses its locks, too: a save
// then fails, if it can tell. Windows removes no lock that is held.
//
// Windows differs in this:
//   - A file mode means nothing there. Directories are made with an access list that lets only the user, SYSTEM and the Administrators group in,
//     and passes this on to what is in them. A Dir that exists keeps its own list, which the Store does not look at: it refuses only what belongs to others
//     than these three.
//   - No file is replaced while a program has it open, such as a virus scanner. A save tries again until its context
//     ends; reading tries for a second.
//   - A value is flushed, then renamed by MoveFileEx with MOVEFILE_WRITE_THROUGH. NTFS keeps a journal of names, so that after a crash the old value is there or the new one.
//     Microsoft promises neither this nor that the replacement is atomic. FAT has no journal: keep Dir on NTFS or ReFS.
//   - The lock of a process that died is free when Windows has closed its files, as a rule at once.
//
// Nothing can help where a machine crashes, or a backup is restored, such that
// an old refresh token comes back that the server has ended.
type Store struct {
	// Dir is the directory. The first Update makes it and those above that are missing, with mode 0700. Each key has a directory
	// in it, named by a hash of the key, which stays for ever.
	Dir string
}

// Names in the directory of a key. The lock is a file of its own, for the other
// is replaced.
const (
	tokenFile = "token"
	lockFile  = "lock"
)

// Load returns the value of key. A Dir that does not exist has none.
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

// Update calls fn with the lock of key, when it has made room on the disk for
// a value: 16 KiB, or twice the last value. On Linux the room is kept by fallocate(2), where the
// file system knows it: then a disk that fills up meanwhile does not stop the save, also on btrfs. Elsewhere zeros are written, and a
// file system that compresses or copies on write, such as ZFS, may keep no room for them.
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

// dir returns the directory of a key, which may hold anything: some file systems
// do not tell a from A.
func (s *Store) dir(key string) (string, error) {
	if s.Dir == "" {
		return "", errors.New("filestore: Store.Dir is empty")
	}
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.Dir, hex.EncodeToString(sum[:])), nil
}

// make makes the directory of a key, and sees to it that it survives a crash.
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

// makeAll makes a directory and those above it, and syncs what they were made in.
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

// check refuses directories in which others could put a token.
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
