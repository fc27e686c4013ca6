package filestore

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// rename returns when the new name is on the disk.
func rename(from, to string) error {
	old, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(old, name, windows.MOVEFILE_REPLACE_EXISTING|windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// busy reports whether another program keeps a file from being opened or replaced. Who may not write gets
// ERROR_ACCESS_DENIED as well.
func busy(err error) bool {
	return errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION)
}

// syncDir has nothing to do: a directory cannot be flushed, and NTFS keeps a journal of names.
func syncDir(string) error { return nil }
