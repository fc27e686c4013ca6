package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/rpc"
	"os"
	"os/signal"
	"sync"
	"time"
)

// servers are those of one world: an authorization server that speaks the
// protocols of all peers, an API that takes its tokens, and a server elsewhere
// that is to see none. They have a process of their own, which they share with
// nobody.
type servers struct {
	realm string // of the API

	mu       sync.Mutex // guards what follows
	conduct  Conduct
	counts   Counts
	issued   int                  // tokens of either kind
	live     map[string]time.Time // access tokens, and when each expires
	refresh  map[string]bool      // refresh tokens, and whether each is spent
	attempts map[string]int       // by the query: how often a request came
	counted  int                  // all attempts
	release  chan struct{}        // lets one go that is held
}

// Conduct is how the servers behave.
type Conduct struct {
	Lifetime time.Duration // of access tokens
	Latency  time.Duration // before a token request is answered
	Down     bool          // token requests are answered 503
	Open     bool          // every request is accepted: for the base, whose token is none
	Hold     bool          // requests to /late wait for a release
	RevokeAt int           // at this many attempts, all tokens are revoked; 0: never
}

// Counts are what the servers have seen.
type Counts struct {
	TokenRequests int
	Held          int // requests that wait for a release, or did
	Often         int // requests that were sent more than twice
	Strange       int // requests elsewhere
	Leaked        int // of these, with credentials
}

// Addresses are the URLs of the servers.
type Addresses struct {
	Auth        string
	Plain       string // the API
	Secure      string // the API over TLS; empty if nobody has asked for it
	Elsewhere   string
	Certificate []byte // of those that speak TLS; X.509, DER
}

func newServers() *servers {
	return &servers{
		conduct:  Conduct{Lifetime: time.Hour},
		live:     make(map[string]time.Time),
		refresh:  make(map[string]bool),
		attempts: make(map[string]int),
		release:  make(chan struct{}, 1), // with room for who has gone already
	}
}

// serveArg is the argument of a process that is to be servers.
const serveArg = "serve"

func isServers() bool { return len(os.Args) == 2 && os.Args[1] == serveArg }

// serve is all that such a process does. It is told what to do through its
// standard input, and ends with it.
func serve() {
	signal.Ignore(os.Interrupt) // it ends with who needs it
	must(0, rpc.Register(&Control{newServers()}))
	rpc.ServeConn(pipes{os.Stdin, os.Stdout})
}

// Control is how the other process has the servers do something, by package
// [net/rpc].
type Control struct{ s *servers }

// None is no argument, or no reply.
type None struct{}

// Start starts them. If secure, the authorization server speaks TLS, and there
// is an API that does.
func (c *Control) Start(secure bool, to *Addresses) error {
	how := (*httptest.Server).Start
	if secure {
		how = (*httptest.Server).StartTLS
	}
	auth := listen(c.s.issuer(), how)
	c.s.realm = auth.URL + "/registry"
	to.Auth = auth.URL
	to.Plain = listen(c.s.api(), (*httptest.Server).Start).URL
	to.Elsewhere = listen(http.HandlerFunc(c.s.serveElsewhere), (*httptest.Server).Start).URL
	if secure {
		api := listen(c.s.api(), how)
		to.Secure, to.Certificate = api.URL, api.Certificate().Raw
	}
	return nil
}

func listen(h http.Handler, start func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // callers that give up are what some scenarios are about
	start(s)
	return s
}

// Set says how they are to behave.
func (c *Control) Set(conduct Conduct, _ *None) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.conduct = conduct
	return nil
}

// Count tells what they have seen.
func (c *Control) Count(_ None, counts *Counts) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	*counts = c.s.counts
	return nil
}

// Login makes a refresh token.
func (c *Control) Login(_ None, token *string) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	*token = c.s.login()
	return nil
}

// Revoke ends all access tokens.
func (c *Control) Revoke(None, *None) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	clear(c.s.live)
	return nil
}

// Release lets one request go that is held.
func (c *Control) Release(None, *None) error {
	select {
	case c.s.release <- struct{}{}:
	default: // the one before has not been taken
	}
	return nil
}
