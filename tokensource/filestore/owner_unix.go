//go:build unix

package filestore

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

func mkdir(path string) error { return os.Mkdir(path, 0o700) }

// shared refuses a directory that others can write to, and a file that others can read.
func shared(path string, info fs.FileInfo) error {
	mask, what := fs.FileMode(0o077), "read or write it"
	if info.IsDir() {
		mask, what = 0o022, "write to it"
	}
	if info.Mode()&mask != 0 {
		return fmt.Errorf("filestore: %s has mode %04o: others can %s", path, info.Mode().Perm(), what)
	}
	return nil
}

// foreign refuses a file or directory of another user, who may change it at any time.
func foreign(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if own := os.Geteuid(); ok && stat.Uid != 0 && int(stat.Uid) != own {
		return fmt.Errorf("filestore: %s belongs to user %d, not to root or user %d", path, stat.Uid, own)
	}
	return nil
}
