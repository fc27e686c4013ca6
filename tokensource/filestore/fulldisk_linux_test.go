package filestore_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// mountImage mounts a file system of its own, if it can.
func mountImage(t *testing.T, mkfs string, size int64, options string) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{mkfs, "-q", image}, {"mount", "-o", options, image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return dir
}

// fill writes until the disk of dir is full.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filling"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 16 {
		noise := make([]byte, size)
		for err = nil; err == nil; _, err = f.Write(noise) {
			rand.Read(noise) // so that nothing can be compressed
		}
		f.Sync()
	}
	syscall.Sync()
}

func TestADiskThatFillsUpDuringAnExchangeDoesNotStopTheSave(t *testing.T) {
	for name, c := range map[string]struct {
		mkfs, options string
		size          int64
	}{
		"ext4":             {"mkfs.ext4", "loop", 8 << 20},
		"btrfs":            {"mkfs.btrfs", "loop", 120 << 20},
		"btrfs compressed": {"mkfs.btrfs", "loop,compress-force", 120 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			root := mountImage(t, c.mkfs, c.size, c.options)
			dir := filepath.Join(root, "tokens")
			put(t, dir, "one")
			next := make([]byte, 8<<10)
			rand.Read(next)
			err := open(dir).Update(t.Context(), key, func(_ []byte, save func([]byte) error) error {
				fill(t, root)
				return save(next)
			})
			if err != nil {
				t.Errorf("got error %v; want the value saved", err)
			}
			want(t, dir, string(next))
		})
	}
}
