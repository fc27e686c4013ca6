//go:build unix

package redisstore_test

import (
	"bytes"
	"io"
	"math"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
)

// A front is the address of a server, for clients, replicas, sentinels and
// clusters. What the server sends to its replicas arrives late, and not at all
// if the server is killed before.
type front struct {
	l      net.Listener
	server atomic.Value // its address, a string
	delay  atomic.Value // a func() time.Duration, for each piece that the server sends
}

// later is a constant delay.
func later(d time.Duration) func() time.Duration {
	return func() time.Duration { return d }
}

const forever = time.Duration(math.MaxInt64)

// newFronted starts a server behind a front.
func newFronted(t testing.TB, args ...string) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+programs.FreePort())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := &front{l: l}
	f.delay.Store(later(0))
	s := newServer(t, append(args, "--replica-announce-ip", "127.0.0.1", "--replica-announce-port", f.port(),
		"--cluster-announce-port", f.port())...)
	f.server.Store(s.addr())
	s.front = f
	go f.accept()
	return s
}

func (f *front) addr() string { return f.l.Addr().String() }

func (f *front) port() string { return strconv.Itoa(f.l.Addr().(*net.TCPAddr).Port) }

func (f *front) accept() {
	for {
		client, err := f.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", f.server.Load().(string))
		if err != nil {
			client.Close()
			continue
		}
		go f.serve(client, server)
	}
}

func (f *front) serve(client, server net.Conn) {
	var replica atomic.Bool
	go func() {
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if bytes.Contains(buf[:n], []byte("PSYNC")) {
				replica.Store(true)
			}
			if _, failed := server.Write(buf[:n]); err != nil || failed != nil {
				return
			}
		}
	}()
	defer client.Close()
	chunks := make(chan chunk, 1<<12)
	defer close(chunks)
	go deliver(client, chunks)
	for {
		buf := make([]byte, 64<<10)
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		c := chunk{buf[:n], 0, time.Now()}
		if replica.Load() {
			c.delay = f.delay.Load().(func() time.Duration)()
		}
		chunks <- c
	}
}

// A chunk is what is delivered some time after it came.
type chunk struct {
	data  []byte
	delay time.Duration
	came  time.Time
}

func deliver(to io.Writer, chunks <-chan chunk) {
	for c := range chunks {
		if c.delay > 0 {
			<-time.After(c.delay - time.Since(c.came))
		}
		to.Write(c.data) // fails once the server is gone
	}
}
