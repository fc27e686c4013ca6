//go:build unix || windows

package filestore_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// Windows replaces no file that is open.
func TestAValueIsReplacedWhileOthersReadIt(t *testing.T) {
	dir := newDir(t)
	put(t, dir, "0")
	file, done := find(t, dir, "token"), make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := open(dir).Load(t.Context(), key); err != nil {
					t.Errorf("Load: got error %v", err)
				}
				os.ReadFile(file) // a program that is no Store
			}
		})
	}
	for n := range 50 {
		put(t, dir, fmt.Sprint(n))
		want(t, dir, fmt.Sprint(n))
	}
	close(done)
	readers.Wait()
}
