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
)

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
