//go:build unix

package filestore_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/filestore"
)

const key = "a key/../with what no file name has:*"

func put(t *testing.T, dir, value string) {
	t.Helper()
	err := open(dir).Update(t.Context(), key, func(_ []byte, save func([]byte) error) error { return save([]byte(value)) })
	if err != nil {
		t.Fatalf("Update: got error %v", err)
	}
}

func want(t *testing.T, dir, value string) {
	t.Helper()
	if got, err := open(dir).Load(t.Context(), key); err != nil || string(got) != value {
		t.Errorf("Load: got %q, error %v; want %q", got, err, value)
	}
}

// wantRefused expects that nothing is loaded or updated, for a reason that names
// the path.
func wantRefused(t *testing.T, dir, path string) {
	t.Helper()
	_, err := open(dir).Load(t.Context(), key)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Load: got error %v; want one that names %s", err, path)
	}
	err = open(dir).Update(t.Context(), key, func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Update: got error %v; want one that names %s", err, path)
	}
}

// files returns the names below dir, and their modes.
func files(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	modes := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(dir, path)
		modes[name] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return modes
}

// find returns the path of the one file with a name.
func find(t *testing.T, dir, name string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*", name))
	if err != nil || len(paths) != 1 {
		t.Fatalf("got files %q, error %v; want one", paths, err)
	}
	return paths[0]
}

func TestOnlyTheOwnerCanReadWhatIsWritten(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := newDir(t)
	put(t, dir, "one")
	put(t, dir, "two")
	got := files(t, dir)
	for name, mode := range got {
		if mode.Perm()&0o077 != 0 {
			t.Errorf("%s: got mode %v; want nothing for others", name, mode)
		}
	}
	if len(got) != 4 {
		t.Errorf("got files %v; want two directories, a lock and a token", got)
	}
}

func TestLoadMakesNoDirectory(t *testing.T) {
	dir := newDir(t)
	want(t, dir, "")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v; want no directory", err)
	}
}

func TestADirectoryIsNeeded(t *testing.T) {
	wantRefused(t, "", "Store.Dir")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, file, file)
}

func TestADirectoryThatOthersCanWriteIsRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o770, 0o702, 0o777 | fs.ModeSticky} {
		dir := newDir(t)
		put(t, dir, "one")
		chmod(t, dir, mode)
		wantRefused(t, dir, dir)
		chmod(t, dir, 0o755)
		want(t, dir, "one")
		chmod(t, filepath.Dir(find(t, dir, "token")), mode)
		wantRefused(t, dir, dir)
	}
}

func TestAFileThatOthersCanReadIsRefused(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620} {
		dir := newDir(t)
		put(t, dir, "one")
		file := find(t, dir, "token")
		chmod(t, file, mode)
		wantRefused(t, dir, file)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAKilledProcessLeftIsRemoved(t *testing.T) {
	dir := newDir(t)
	put(t, dir, "one")
	left := filepath.Join(filepath.Dir(find(t, dir, "token")), ".token123")
	if err := os.WriteFile(left, []byte("half of a tok"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "two")
	want(t, dir, "two")
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file that was left: got error %v; want none", err)
	}
}

// aloneEnv makes a process that of one test.
const aloneEnv = "FILESTORE_ALONE"

// alone runs the test in a process of its own, in which it returns true.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), aloneEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// fillDisk makes every write of this process to a file fail, until it is
// emptied again.
func fillDisk(t *testing.T) (empty func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	full := syscall.Rlimit{Cur: 0, Max: old.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
}

func TestAFullDiskShowsBeforeFnIsCalled(t *testing.T) {
	if !alone(t) { // for package testing writes to files, too
		return
	}
	dir := newDir(t)
	put(t, dir, "one")
	empty := fillDisk(t)
	defer empty()
	called := false
	err := open(dir).Update(t.Context(), key, func([]byte, func([]byte) error) error {
		called = true
		return nil
	})
	if err == nil || called {
		t.Errorf("got error %v, fn called: %t; want an error, false", err, called)
	}
	want(t, dir, "one")
	if got := files(t, dir); len(got) != 4 {
		t.Errorf("got files %v; want nothing left behind", got)
	}
}

func TestASaveThatFailedCanBeTriedAgain(t *testing.T) {
	if !alone(t) { // for package testing writes to files, too
		return
	}
	dir := newDir(t)
	put(t, dir, "one")
	err := open(dir).Update(t.Context(), key, func(_ []byte, save func([]byte) error) error {
		empty := fillDisk(t)
		if err := save([]byte("two")); err == nil || errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("save to a full disk: got error %v; want one of the disk", err)
		}
		want(t, dir, "one")
		empty()
		return save([]byte("two"))
	})
	if err != nil {
		t.Errorf("save after that: got error %v", err)
	}
	want(t, dir, "two")
}

func TestALargeValueHasRoom(t *testing.T) {
	dir, large := newDir(t), strings.Repeat("x", 1<<20)
	put(t, dir, large)
	put(t, dir, large+"y")
	want(t, dir, large+"y")
	put(t, dir, "z")
	want(t, dir, "z")
}

// TestASaveNoticesThatTheLockIsLost does by hand what no process does.
func TestASaveNoticesThatTheLockIsLost(t *testing.T) {
	for name, harm := range map[string]func(token, lock string) error{
		"the lock was removed":      func(_, lock string) error { return os.Remove(lock) },
		"the lock was replaced":     func(_, lock string) error { return errors.Join(os.Remove(lock), os.WriteFile(lock, nil, 0o600)) },
		"the token was changed":     func(token, _ string) error { return os.WriteFile(token, []byte("other"), 0o600) },
		"the token was removed":     func(token, _ string) error { return os.Remove(token) },
		"the directory was removed": func(token, _ string) error { return os.RemoveAll(filepath.Dir(token)) },
	} {
		dir := newDir(t)
		put(t, dir, "one")
		err := open(dir).Update(t.Context(), key, func(_ []byte, save func([]byte) error) error {
			if err := harm(find(t, dir, "token"), find(t, dir, "lock")); err != nil {
				t.Fatal(err)
			}
			return save([]byte("two"))
		})
		if !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("%s: got error %v; want ErrLocked", name, err)
		}
		if got, err := open(dir).Load(t.Context(), key); err != nil || string(got) == "two" {
			t.Errorf("%s: got %q, error %v; want no new value", name, got, err)
		}
	}
}

func TestErrorsHoldNoValue(t *testing.T) {
	dir := newDir(t)
	put(t, dir, "secret")
	token := find(t, dir, "token")
	var errs []error
	try := func(harm, heal func() error) {
		t.Helper()
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		_, err := open(dir).Load(t.Context(), key)
		errs = append(errs, err, open(dir).Update(t.Context(), key, func(_ []byte, save func([]byte) error) error {
			return save([]byte("secret"))
		}))
		if err := heal(); err != nil {
			t.Fatal(err)
		}
	}
	try(func() error { return os.Chmod(token, 0o644) }, func() error { return os.Chmod(token, 0o600) })
	try(func() error { return errors.Join(os.Remove(token), os.Mkdir(token, 0o700)) }, func() error { return os.Remove(token) })
	if slices.Contains(errs, nil) || strings.Contains(errors.Join(errs...).Error(), "secret") {
		t.Errorf("got errors %v; want four without the value", errs)
	}
}

func TestManyStoresOfOneDirectoryAreOne(t *testing.T) {
	dir := newDir(t)
	one, other := &filestore.Store{Dir: dir}, &filestore.Store{Dir: dir + "/."}
	err := one.Update(t.Context(), key, func([]byte, func([]byte) error) error {
		return other.Update(t.Context(), key, func([]byte, func([]byte) error) error { return nil })
	})
	if !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v; want ErrLocked", err)
	}
}
