//go:build (unix || windows) && !linux

package filestore

import "os"

// allocate makes room for size bytes in a new file.
func allocate(f *os.File, size int) error {
	_, err := f.Write(make([]byte, size))
	return err
}
