package proxies_test

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
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
		s.addrs[name] = "127.0.0.1:" + programs.FreePort()
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
	ended := programs.Run(t, exec.Command(program, args...))
	for _, addr := range at.addrs {
		programs.Await(t, addr, ended)
	}
	return at
}

// program returns the path of the program, or skips the test.
func (s server) program(t *testing.T) string {
	path := programs.Find(s.command[0])
	if path == "" && !s.needed {
		t.Skipf("%s is not installed", s.command[0])
	}
	return programs.Path(t, s.command[0])
}

var number = regexp.MustCompile(`\d+(\.\d+)+`)

// installed returns the version of the server.
func (s server) installed(t *testing.T) string {
	out, _ := exec.Command(programs.Find(s.version[0]), s.version[1:]...).CombinedOutput() // some exit with 1
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

func writeFile(t *testing.T, name, text string) {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
