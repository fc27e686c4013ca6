//go:build unix

package pgstore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
)

func TestMain(m *testing.M) {
	status := m.Run()
	if template != "" {
		os.RemoveAll(template)
	}
	os.Exit(status)
}

// template is the data of a server that has not run yet, from initdb.
var (
	template string
	initOnce sync.Once
)

// A server is a real Postgres, or a PgBouncer, on the loopback interface.
type server struct {
	t    testing.TB
	dir  string
	port string
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended

	admin *pgxpool.Pool // for what an administrator does
}

// newServer starts a Postgres that has the table, with settings such as "fsync=off", and
// ends it with the test.
func newServer(t testing.TB, settings ...string) *server {
	t.Helper()
	initOnce.Do(func() { template = initdb(t) })
	s := &server{t: t, dir: tempDir(t), port: programs.FreePort()}
	run(t, "cp", "-a", template+"/.", s.dir)
	s.start(settings...)
	s.exec(pgstore.CreateTable)
	return s
}

func initdb(t testing.TB) string {
	t.Helper()
	dir := makeDir(t)
	run(t, programs.Path(t, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	return dir
}

// start starts the server, again if it was stopped, and waits until it answers.
func (s *server) start(settings ...string) {
	s.t.Helper()
	args := []string{"-D", s.dir, "-p", s.port, "-h", "127.0.0.1", "-k", ""}
	for _, setting := range append([]string{"fsync=off", "shared_buffers=16MB", "max_connections=250"}, settings...) {
		args = append(args, "-c", setting)
	}
	s.launch(command(programs.Path(s.t, "postgres"), args...))
}

// newBouncer starts a PgBouncer in transaction mode before s. It has two connections, so that
// statements that follow each other come to different sessions.
func newBouncer(t testing.TB, s *server) *server {
	t.Helper()
	b := &server{t: t, dir: tempDir(t), port: programs.FreePort()}
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%s user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_round_robin = 1
max_client_conn = 1000
`, s.port, b.port)
	path := filepath.Join(b.dir, "pgbouncer.ini")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	b.launch(command(programs.Path(t, "pgbouncer"), path))
	return b
}

// launch runs a command until the test ends, and waits until it answers.
func (s *server) launch(cmd *exec.Cmd) {
	s.t.Helper()
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	gone := make(chan struct{})
	s.cmd, s.gone = cmd, gone
	go func() {
		defer close(gone)
		cmd.Wait()
	}()
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGQUIT)
		<-gone
	})
	s.admin = s.pool(s.t)
	s.eventually(func() error { return s.admin.Ping(context.Background()) })
}

// eventually waits until check succeeds. It fails if the server ends first.
func (s *server) eventually(check func() error) {
	s.t.Helper()
	if err := programs.Poll(s.gone, 30*time.Second, check); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		s.t.Fatalf("%v; its log:\n%s", err, log)
	}
}

// crash ends the server as kill -9 would, but with its children.
func (s *server) crash() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		s.t.Fatal(err)
	}
	<-s.gone
}

// address is a connection string. More servers may take the place of s.
func (s *server) address(more ...*server) string {
	hosts := "127.0.0.1:" + s.port
	for _, other := range more {
		hosts += ",127.0.0.1:" + other.port
	}
	return "postgres://postgres@" + hosts + "/postgres?sslmode=disable&pool_max_conns=2"
}

func (s *server) pool(t testing.TB) *pgxpool.Pool { return newPool(t, s.address()) }

func newPool(t testing.TB, address string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (s *server) store() *pgstore.Store { return &pgstore.Store{Pool: s.pool(s.t)} }

// exec runs a statement of an administrator.
func (s *server) exec(statement string, args ...any) {
	s.t.Helper()
	if _, err := s.admin.Exec(context.Background(), statement, args...); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

// text returns what a query finds, as text.
func (s *server) text(query string, args ...any) (text string) {
	s.t.Helper()
	if err := s.admin.QueryRow(context.Background(), query, args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return text
}

// run runs a program to its end.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// command runs a program as postgres if the test runs as root, for whom neither Postgres nor
// PgBouncer runs.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = os.TempDir()
	if os.Geteuid() == 0 {
		uid, gid := servant()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd
}

func servant() (uid, gid int) {
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ = strconv.Atoi(u.Uid)
			gid, _ = strconv.Atoi(u.Gid)
			return uid, gid
		}
	}
	return 65534, 65534
}

// tempDir belongs to whoever runs the server.
func tempDir(t testing.TB) string {
	dir := makeDir(t)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func makeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgstore")
	if err == nil && os.Geteuid() == 0 {
		uid, gid := servant()
		err = os.Chown(dir, uid, gid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// open opens a store by the address of a server.
func open(address string) tokensource.Store {
	pool, err := pgxpool.New(context.Background(), address)
	if err != nil {
		panic(err)
	}
	return &pgstore.Store{Pool: pool}
}
