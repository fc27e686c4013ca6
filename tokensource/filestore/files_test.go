//go:build unix || windows

package filestore_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
	harms := map[string]func(token, lock string) error{
		"the lock was removed":      func(_, lock string) error { return os.Remove(lock) },
		"the lock was replaced":     func(_, lock string) error { return errors.Join(os.Remove(lock), os.WriteFile(lock, nil, 0o600)) },
		"the token was changed":     func(token, _ string) error { return os.WriteFile(token, []byte("other"), 0o600) },
		"the token was removed":     func(token, _ string) error { return os.Remove(token) },
		"the directory was removed": func(token, _ string) error { return os.RemoveAll(filepath.Dir(token)) },
	}
	if runtime.GOOS == "windows" { // which removes no file that is open
		maps.DeleteFunc(harms, func(name string, _ func(token, lock string) error) bool { return !strings.Contains(name, "token") })
	}
	for name, harm := range harms {
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
