package filestore

import (
	"errors"
	"os"
	"syscall"
)

// allocate makes room for so many bytes in a new file. Zeros that are written instead are
// not stored by a file system that compresses, and on one that copies on write, as btrfs, they
// leave no room for what is written over them.
func allocate(f *os.File, size int) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(size))
		switch {
		case err == syscall.EINTR:
		case errors.Is(err, errors.ErrUnsupported):
			_, err = f.Write(make([]byte, size))
			return err
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
}
