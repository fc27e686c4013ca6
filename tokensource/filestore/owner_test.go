//go:build unix

package filestore_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user other than root, and than who runs the test.
const nobody = 65534

func TestWhatBelongsToAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	for name, path := range map[string]func(dir string) string{
		"Dir":                 func(dir string) string { return dir },
		"the key's directory": func(dir string) string { return filepath.Dir(find(t, dir, "token")) },
		"the file":            func(dir string) string { return find(t, dir, "token") },
		"a link to Dir": func(dir string) string {
			if err := os.Rename(dir, dir+"-itself"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(dir+"-itself", dir); err != nil {
				t.Fatal(err)
			}
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			put(t, dir, "one")
			given := path(dir)
			want(t, dir, "one")
			if err := os.Lchown(given, nobody, nobody); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, dir, given+" belongs to user 65534")
		})
	}
}

// unprivileged runs the test in a process whose user is not root, in which it returns
// true, in a directory of its own.
func unprivileged(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	dir, err := os.MkdirTemp("", "unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	chmod(t, dir, 0o755)
	program, tmp := filepath.Join(dir, "test"), filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, program)
	cmd := exec.Command(program, "-test.run=^"+t.Name()+"$")
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func copyProgram(t *testing.T, path string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
}

// A directory that may be written but not opened cannot be synced.
func TestWhatADirectoryIsMadeInIsSynced(t *testing.T) {
	if !unprivileged(t) {
		return
	}
	base := t.TempDir()
	chmod(t, base, 0o300)
	defer chmod(t, base, 0o700)
	err := open(filepath.Join(base, "a", "b", "tokens")).Update(t.Context(), key, func([]byte, func([]byte) error) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "open "+base+":") {
		t.Errorf("got error %v; want one that %s cannot be opened", err, base)
	}
}
