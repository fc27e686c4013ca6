package servers_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
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

// freePort returns a port of loopback that nobody listens on.
func freePort(t *testing.T) string {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
}

// run starts a program that listens on the port, and ends it with the test.
func run(t *testing.T, port string, cmd *exec.Cmd) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() && len(text) > 0 {
			t.Logf("%s printed:\n%s", strings.Join(cmd.Args, " "), text[max(0, len(text)-4096):])
		}
	})
	await(t, port, ended)
}

// await waits until a server listens on the port.
func await(t *testing.T, port string, ended <-chan struct{}) {
	for end := time.After(30 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatal("the server has ended")
		case <-end:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
