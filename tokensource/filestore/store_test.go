//go:build unix || windows

package filestore_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/filestore"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// newDir returns the name of a directory that does not exist yet.
func newDir(t *testing.T) string { return filepath.Join(t.TempDir(), "tokens") }

func open(dir string) tokensource.Store { return &filestore.Store{Dir: dir} }

// sealed opens a directory with a layer of encryption.
func sealed(dir string) tokensource.Store {
	return &tokensource.Encrypted{Store: open(dir), Keys: [][]byte{[]byte(strings.Repeat("k", 32))}}
}

func TestTheContractOfAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		dir := newDir(t)
		return func() tokensource.Store { return open(dir) }
	})
}

func TestTheContractOfAStoreUnderEncrypted(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		dir := newDir(t)
		return func() tokensource.Store { return sealed(dir) }
	})
}

func TestProcessesShareATokenThatRotates(t *testing.T) {
	storetest.Processes(t, newDir, open)
}
