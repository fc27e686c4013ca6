// Package programs runs real servers on loopback for the time of a test.
package programs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Find returns the path of a program, or the empty string. Debian has some in the PATH
// of root alone, and those of Postgres in none.
func Find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/usr/local/sbin/", "/usr/lib/postgresql/*/bin/"} {
		if found, _ := filepath.Glob(dir + name); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	return ""
}

// Path returns the path of a program. Without it the test is skipped, or fails if CI is set.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := Find(name)
	if path == "" && os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", name)
	}
	if path == "" {
		t.Skipf("%s is not installed", name)
	}
	return path
}

var handedOut sync.Map // ports, by FreePort

// FreePort returns a port of loopback that is free, and stays so when a server starts
// again: the system hands out higher ports, and FreePort returns each only once. So is
// the port of a Redis cluster's bus, 10000 above.
func FreePort() string {
	// A program that starts meanwhile would keep the port open until its exec.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for {
		port := strconv.Itoa(10_000 + rand.IntN(10_000))
		if _, again := handedOut.LoadOrStore(port, true); again {
			continue
		}
		if l, err := net.Listen("tcp4", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
}

// Run starts a program, and ends it with the test, whose log has the last of what the program
// printed if the test fails. The channel is closed when the program has ended.
func Run(t *testing.T, cmd *exec.Cmd) (ended chan struct{}) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
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
	return ended
}

// Await waits for half a minute until a server listens on the address. It fails the test
// if the server ends first.
func Await(t *testing.T, addr string, ended <-chan struct{}) {
	t.Helper()
	err := Poll(ended, 30*time.Second, func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
}

// Poll waits until check succeeds. The error is that of the last check, or
// says that the server has ended.
func Poll(ended <-chan struct{}, limit time.Duration, check func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); ; {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("the server has ended")
		case <-end:
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}
