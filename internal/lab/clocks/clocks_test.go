package clocks_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// mover is what package time gets in addition.
const mover = `package time

import "sync/atomic"

var moved atomic.Int64

// MoveWall moves the wall clock. The monotonic clock goes on as before.
func MoveWall(d Duration) { moved.Add(int64(d / Second)) }
`

// now is what package time has, and what takes its place. In a bubble of synctest it
// has no monotonic clock: here it has.
const (
	now      = "	sec, nsec, mono := runtimeNow()\n	if mono == 0 {"
	movedNow = "	sec, nsec, mono := runtimeNow()\n	sec += moved.Load()\n	if mono == 0 {\n		mono = runtimeNano()\n	}\n	if mono == 0 {"
)

// TestWithClocksThatMove runs the tests behind the build tag movedclocks with the
// package time of this Go and a clock that moves.
func TestWithClocksThatMove(t *testing.T) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("there is no go command: ", err)
	}
	root := filepath.Join(t.TempDir(), "go") // an overlay may not replace files of a downloaded Go by their own names
	if err := os.Symlink(strings.TrimSpace(string(goroot)), root); err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(root, "src", "time")
	source, err := os.ReadFile(filepath.Join(dir, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), now) != 1 {
		t.Fatalf("time.Now of %s is not the one that is known here", runtime.Version())
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(dir, "time.go"):  write(t, "time.go", strings.Replace(string(source), now, movedNow, 1)),
		filepath.Join(dir, "mover.go"): write(t, "mover.go", mover),
	}})
	if err != nil {
		t.Fatal(err)
	}
	test := exec.Command("go", "test", "-overlay", write(t, "overlay.json", string(overlay)), "-tags", "movedclocks", "-run", "Moved", "-v", ".")
	test.Env = append(os.Environ(), "GOROOT="+root, "GOTOOLCHAIN=local")
	out, err := test.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestMoved") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
