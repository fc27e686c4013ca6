package proxies_test

import (
	"bytes"
	"cmp"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// A server is a program under test.
type server struct {
	name    string
	config  string   // in testdata: a template, as the elements of command are
	command []string // runs it in the foreground
	version []string // prints its version
	needed  bool     // with CI set it must be there
	ways    []way
}

// A way is how a server refuses uploads.
type way struct {
	who     string // refuses, for the table
	listens string // the name of its addresses in the configuration
	client  string // viaAuth unless set
	without string // protocols or uploads that the server does not take: noHTTP2 or noLength

	// instead is the status that some uploads get, if not all, in place of a
	// refusal at one of the points; zero if every upload must succeed.
	instead int
	points  []string
	advice  string // what to set, for the table
}

// What a server may not take.
const (
	noHTTP2  = "HTTP/2"
	noLength = "bodies of unknown length over HTTP/2"
)

// A site is where a server runs: it has what its configuration asks for.
type site struct {
	t     *testing.T
	dir   string
	user  string // whom a server runs as that refuses to be root
	api   string
	addrs map[string]string
}

// address returns a free address for a name, the same each time.
func (s *site) address(name string) string {
	if s.addrs[name] == "" {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		defer listener.Close()
		s.addrs[name] = listener.Addr().String()
	}
	return s.addrs[name]
}

// fill executes a template.
func (s *site) fill(text string) string {
	t := template.Must(template.New("").Funcs(template.FuncMap{
		"api":   func() string { return s.api },
		"dir":   func() string { return s.dir },
		"http":  func(name string) string { return s.address("http " + name) },
		"https": func(name string) string { return s.address("https " + name) },
		"port":  func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] },
		"user":  func() string { return s.user },
	}).Parse(text))
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		s.t.Fatal(err)
	}
	return b.String()
}

// start runs the server until the test ends. Its API refuses what it forwards.
func (s server) start(t *testing.T, api string) *site {
	program := s.program(t)
	at := &site{t, t.TempDir(), username(t), api, map[string]string{}}
	writeCertificate(t, at.dir)
	if s.config != "" {
		text, err := os.ReadFile(filepath.Join("testdata", s.config))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(at.dir, s.config), at.fill(string(text)))
	}
	args := make([]string, len(s.command)-1)
	for i, arg := range s.command[1:] {
		args[i] = at.fill(arg)
	}
	ended := run(t, exec.Command(program, args...))
	for name, addr := range at.addrs {
		await(t, name, addr, ended)
	}
	return at
}

// program returns the path of the program, or skips the test.
func (s server) program(t *testing.T) string {
	path := find(s.command[0])
	if path == "" && s.needed && os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed", s.command[0])
	}
	if path == "" {
		t.Skipf("%s is not installed", s.command[0])
	}
	return path
}

// find returns the path of a program, which only root may have in its PATH.
func find(name string) string {
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

var number = regexp.MustCompile(`\d+(\.\d+)+`)

// installed returns the version of the server.
func (s server) installed(t *testing.T) string {
	out, _ := exec.Command(find(s.version[0]), s.version[1:]...).CombinedOutput() // some exit with 1
	return cmp.Or(number.FindString(string(out)), "unknown")
}

func username(t *testing.T) string {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if u.Uid == "0" {
		return "nobody"
	}
	return u.Username
}

// run starts a program, and ends it with the test. What it returns is closed
// when the program has ended.
func run(t *testing.T, cmd *exec.Cmd) (ended chan struct{}) {
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
			t.Logf("%s printed:\n%s", cmd.Path, text[max(0, len(text)-4*kib):])
		}
	})
	return ended
}

// await waits until there is somebody at the address.
func await(t *testing.T, name, addr string, ended chan struct{}) {
	for end := time.After(30 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("the program has ended")
		case <-end:
			t.Fatalf("%s: %v", name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
