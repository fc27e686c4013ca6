//go:build unix

package filestore

import "os"

func rename(from, to string) error { return os.Rename(from, to) }

// busy reports whether another program prevents opening or replacing a file, which does
// not happen on Unix.
func busy(error) bool { return false }

// syncDir makes a rename or a new name survive a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return wrap(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return wrap(err)
	}
	return nil
}
