//go:build unix || windows

package filestore_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// dirEnv makes the process one that saves until it is killed.
const dirEnv = "FILESTORE_DIR"

// TestAKilledProcessLeavesAWholeValue kills processes in the midst of whatever
// they do. What they told to be saved must be there, and nothing in part.
func TestAKilledProcessLeavesAWholeValue(t *testing.T) {
	if dir := os.Getenv(dirEnv); dir != "" {
		saveForEver(t, dir)
	}
	kills := 100
	if testing.Short() {
		kills = 20
	}
	dir := newDir(t)
	var saved, left atomic.Int64
	left.Store(int64(kills))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				killOne(t, dir, &saved)
				number(t, dir)
			}
		})
	}
	all.Wait()
	least, most := saved.Load(), saved.Load()+int64(kills)
	if n := number(t, dir); n < least || n > most {
		t.Errorf("got %d saves in the end; want the %d that were told of, and at most one more for each of %d kills", n, least, kills)
	}
	t.Logf("%d processes killed, %d saves", kills, saved.Load())
}

// killOne starts a process and kills it after a few of its saves.
func killOne(t *testing.T, dir string, saved *atomic.Int64) {
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return
	}
	reader, kill := bufio.NewReader(out), 1+rand.IntN(8)
	for n := 1; ; n++ {
		line, err := reader.ReadString('\n')
		if err != nil {
			break
		}
		if line != "saved\n" {
			t.Errorf("a process says %q", line)
		}
		saved.Add(1)
		if n == kill {
			for range rand.IntN(200) { // a moment that differs
				runtime.Gosched()
			}
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
}

// saveForEver adds one to the stored number, and tells so.
func saveForEver(t *testing.T, dir string) {
	for store := open(dir); ; runtime.Gosched() {
		err := store.Update(context.Background(), key, func(value []byte, save func([]byte) error) error {
			n, err := decode(value)
			if err != nil {
				return err
			}
			return save(encode(n + 1))
		})
		if err == nil {
			fmt.Println("saved")
		} else if !errors.Is(err, tokensource.ErrLocked) {
			fmt.Println(err)
		}
	}
}

// number returns the stored number, if the value is whole.
func number(t *testing.T, dir string) int64 {
	value, err := open(dir).Load(context.Background(), key)
	if err != nil {
		t.Errorf("Load: got error %v", err)
	}
	n, err := decode(value)
	if err != nil {
		t.Error(err)
	}
	return n
}

// encode returns a number with a load of 0 to 64 KiB and a checksum.
func encode(n int64) []byte {
	load := bytes.Repeat([]byte{byte(n)}, rand.IntN(64<<10))
	return fmt.Appendf(nil, "%d %d %d\n%s", n, len(load), crc32.ChecksumIEEE(load), load)
}

func decode(value []byte) (n int64, err error) {
	if value == nil {
		return 0, nil
	}
	var size int
	var sum uint32
	reader := bytes.NewReader(value)
	if _, err := fmt.Fscanf(reader, "%d %d %d\n", &n, &size, &sum); err != nil {
		return 0, fmt.Errorf("a value of %d bytes is not whole: %w", len(value), err)
	}
	load, _ := io.ReadAll(reader)
	if len(load) != size || crc32.ChecksumIEEE(load) != sum {
		return 0, fmt.Errorf("a value of %d bytes is not whole", len(value))
	}
	return n, nil
}
