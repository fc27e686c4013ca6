package filestore

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// rename returns once the new name is on the disk.
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

// busy reports whether another program prevents opening or replacing a file.
// ERROR_ACCESS_DENIED may also mean that the user may not write.
func busy(err error) bool {
	return errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION)
}

// syncDir has nothing to do: Windows cannot flush a directory, and NTFS keeps a journal
// of names.
func syncDir(string) error { return nil }
