package filestore

import (
	"errors"
	"os"
	"syscall"
)

// allocate makes room for size bytes in a new file. Writing zeros instead does not
// suffice: a file system that compresses does not store them, and on one that copies on
// write, such as btrfs, they leave no room for the bytes that replace them.
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
