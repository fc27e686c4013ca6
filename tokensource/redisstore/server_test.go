//go:build unix

package redisstore_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// A server is a real Redis on the loopback interface.
type server struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended

	front  *front // its public address; may be nil
	config string // what a sentinel's configuration file holds
}

// newServer starts a Redis with the arguments, and ends it with the test.
func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	return (&server{t: t, dir: tempDir(t), args: args}).begin()
}

func (s *server) begin() *server {
	t := s.t
	t.Helper()
	for range 5 { // another may take the port
		s.port = programs.FreePort()
		if s.start() == nil {
			return s
		}
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	t.Fatalf("redis-server does not start: %s", log)
	return nil
}

// tempDir is short enough a path, and may still be written to when it is removed.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "redisstore")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start starts the server, again if it was stopped, and waits until it answers.
func (s *server) start() error {
	s.t.Helper()
	args := []string{
		"--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "",
		"--logfile", filepath.Join(s.dir, "log"), "--repl-diskless-sync-delay", "0",
	}
	if s.config != "" {
		file := filepath.Join(s.dir, "sentinel.conf")
		if err := os.WriteFile(file, []byte(s.config), 0o600); err != nil {
			return err
		}
		args = append([]string{file, "--sentinel"}, args...)
	}
	s.cmd = exec.Command(programs.Path(s.t, "redis-server"), append(args, s.args...)...)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	cmd, gone := s.cmd, make(chan struct{})
	s.gone = gone
	go func() {
		defer close(gone)
		cmd.Wait()
	}()
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		<-gone
	})
	client := s.client()
	return s.poll(func() error {
		if err := client.Ping(context.Background()).Err(); err != nil && !refusesUsers(err) {
			return err
		}
		return nil
	})
}

// refusesUsers reports whether the server answers, though with an error.
func refusesUsers(err error) bool {
	return redis.HasErrorPrefix(err, "NOAUTH") || redis.HasErrorPrefix(err, "NOPERM")
}

func (s *server) poll(check func() error) error { return programs.Poll(s.gone, time.Minute, check) }

// eventually waits until check succeeds.
func (s *server) eventually(check func() error) {
	s.t.Helper()
	if err := s.poll(check); err != nil {
		s.t.Fatal(err)
	}
}

// signal sends a signal: SIGSTOP and SIGCONT stop the server and let it go on,
// SIGKILL ends it.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	if sig == syscall.SIGKILL {
		<-s.gone
	}
}

// restart starts the server again, with more arguments.
func (s *server) restart(args ...string) {
	s.t.Helper()
	s.args = append(s.args, args...)
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) addr() string {
	if s.front != nil {
		return s.front.addr()
	}
	return "127.0.0.1:" + s.port
}

// client returns a client of its own, as another process would have.
func (s *server) client() *redis.Client { return newClient(s.t, &redis.Options{Addr: s.addr()}) }

func newClient(t testing.TB, opt *redis.Options) *redis.Client {
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	return client
}

func (s *server) store() *redisstore.Store { return &redisstore.Store{Client: s.client()} }
