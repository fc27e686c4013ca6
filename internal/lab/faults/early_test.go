package faults_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// serveTCP calls handle for each connection, and closes it afterwards, or when
// the test ends.
func serveTCP(t *testing.T, handle func(net.Conn)) (addr string) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.Map
	var active sync.WaitGroup
	active.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Store(conn, nil)
			active.Go(func() {
				defer connections.Delete(conn)
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		for conn := range connections.Range {
			conn.(net.Conn).Close()
		}
		active.Wait()
	})
	return listener.Addr().String()
}

// answers serves HTTP/1.1 as an api does. The first request may have been
// answered already.
func answers(r *bufio.Reader, conn net.Conn, answered bool) {
	for ; ; answered = false {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, req.Body); err != nil {
			return
		}
		if answered {
			continue
		}
		if old(req) {
			io.WriteString(conn, refused)
		} else {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n%x", hash.Sum(nil))
		}
	}
}

const refused = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"

// The server says 401 when it has seen a byte of the headers. It goes on to
// read, it reads no more, or it hangs up.
func TestARefusalInTheMiddleOfTheHeadersIsFollowedByAWholeRequest(t *testing.T) {
	for name, then := range map[string]func(c *client, r *bufio.Reader, conn net.Conn){
		"reads on": func(_ *client, r *bufio.Reader, conn net.Conn) { answers(r, conn, true) },
		"waits": func(c *client, _ *bufio.Reader, _ net.Conn) {
			eventually(func() bool { return c.sent.Load() == 2 })
		},
		"hangs up": func(*client, *bufio.Reader, net.Conn) {},
	} {
		for _, stack := range []string{alone, overDPoP} {
			t.Run(name+", "+stack, func(t *testing.T) {
				leavesNothing(t)
				c := newClientOver(t, new(http.Transport), stack)
				var spent atomic.Bool
				addr := serveTCP(t, func(conn net.Conn) {
					r := bufio.NewReader(conn)
					if spent.Swap(true) {
						answers(r, conn, false)
						return
					}
					r.Peek(1)
					io.WriteString(conn, refused)
					then(c, r, conn)
				})
				c.api = &api{protocol: "HTTP/1.1", url: "http://" + addr}
				for _, kind := range kinds {
					spent.Store(false)
					c.base.CloseIdleConnections()
					req := c.request(t.Context(), kind, memory)
					req.Header.Set("X-Large", strings.Repeat("x", 4*mib))
					r := c.send(req)
					lost := name == "hangs up" && r.err != nil && r.sent == 1 // net/http failed to write before it had read
					if !lost && (r.status != 200 || r.err != nil || r.sent != 2) {
						t.Errorf("%s: got %v, want 200 after two attempts", kind, r)
					}
				}
				c.recovers()
			})
		}
	}
}
