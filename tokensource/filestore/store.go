//go:build unix

// Package filestore keeps tokens in files, for the processes of one machine.
//
//	source := &tokensource.Cache{Source: &tokensource.Stored{
//		Source: &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: initial},
//		Store:  &filestore.Store{Dir: "/var/lib/myservice/tokens"},
//		Key:    "billing",
//	}}
//
// It is for Unix only: other systems replace no file atomically.
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
// It trusts nobody but its own user and root. A directory that others can write
// and a file that others can read are errors that name them. Whoever is the user
// reads the tokens: [tokensource.Encrypted] over a Store helps if the key is
// kept elsewhere.
//
// Locks are those of flock(2). Keep Dir on a local file system: on a network
// file system, flock may exclude nobody, or nobody on other machines, and a lock
// may be lost with the connection. For processes of many machines there is package
// redisstore. A Dir whose files are removed while processes run loses its locks, too: a save
// then fails, if it can tell.
//
// Nothing can help where a machine crashes, or a backup is restored, such that
// an old refresh token comes back that the server has ended.
type Store struct {
	// Dir is the directory. It is made, with mode 0700, by the first Update. Each key has a directory
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
	return read(filepath.Join(dir, tokenFile))
}

// Update calls fn with the lock of key, when it has made room on the disk for
// a value.
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return wrap(err)
	}
	if err := s.check(dir); err != nil {
		return err
	}
	return syncDir(s.Dir)
}

// check refuses directories in which others could put a token.
func (s *Store) check(dir string) error {
	for _, path := range []string{s.Dir, dir} {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return wrap(err)
		case !info.IsDir():
			return fmt.Errorf("filestore: %s is not a directory", path)
		case info.Mode()&0o022 != 0:
			return fmt.Errorf("filestore: %s has mode %04o: others can write to it", path, info.Mode().Perm())
		}
	}
	return nil
}

func wrap(err error) error { return fmt.Errorf("filestore: %w", err) }

var errLocked = wrap(tokensource.ErrLocked)
