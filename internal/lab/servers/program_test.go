package servers_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
)

// program returns the path of a program.
func program(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed", name)
	}
	return path
}

// install copies a folder of testdata, adds the packages of its lock file, and
// returns where.
func install(t *testing.T, name string) (dir string) {
	npm := program(t, "npm")
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// build builds a package in the module of a folder of testdata, and returns the
// program's path.
func build(t *testing.T, name, pkg string, flags ...string) (path string) {
	path = filepath.Join(t.TempDir(), name)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "go"), slices.Concat([]string{"build", "-o", path}, flags, []string{pkg})...)
	cmd.Dir = filepath.Join("testdata", name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// run starts a program that listens on the port, and ends it with the test.
func run(t *testing.T, port string, cmd *exec.Cmd) {
	programs.Await(t, "127.0.0.1:"+port, programs.Run(t, cmd))
}
