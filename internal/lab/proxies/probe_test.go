package proxies_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// A probe is a connection on which an upload is sent that is to be refused before
// its body.
type probe struct {
	conn net.Conn
	r    *bufio.Reader
}

// patience is how long a server may take that goes on.
const patience = 3 * time.Second

// observe tells what the server at an address does: it sends a part of an upload,
// waits for an answer, and sends on until one comes. After the rest it sends
// another request. With Expect it waits before it sends any of the body.
func observe(t *testing.T, addr string, expect bool) string {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := probe{conn, bufio.NewReader(conn)}
	header := "POST / HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer stale\r\nRefuse-After: 0\r\nRefusal-Length: 500\r\n"
	first, rest := content[:64*kib], content[64*kib:]
	if expect {
		header += "Expect: 100-continue\r\n"
		first, rest = nil, content
	}
	p.write(fmt.Appendf(nil, header+"Content-Length: %d\r\n\r\n", addr, len(content)))
	p.write(first)
	for wait := patience; !p.answers(wait) && len(rest) > 0; wait = 20 * time.Millisecond {
		p.write(rest[:64*kib])
		rest = rest[64*kib:]
	}
	if len(rest) == 0 {
		return p.answer(t) + " after the whole body"
	}
	return p.answer(t) + " at once, then " + p.then(rest)
}

// answers waits for an answer.
func (p probe) answers(wait time.Duration) bool {
	p.conn.SetReadDeadline(time.Now().Add(wait))
	_, err := p.r.Peek(1)
	return err == nil
}

func (p probe) write(data []byte) error {
	p.conn.SetDeadline(time.Now().Add(patience))
	_, err := p.conn.Write(data)
	return err
}

// answer reads a response.
func (p probe) answer(t *testing.T) string {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	if resp.Close {
		return fmt.Sprint(resp.StatusCode, " with `Connection: close`")
	}
	return fmt.Sprint(resp.StatusCode)
}

// then tells what becomes of the connection when the rest is sent.
func (p probe) then(rest []byte) string {
	err := p.write(rest)
	if err == nil {
		p.write(fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer good\r\n\r\n", p.conn.RemoteAddr()))
		_, err = http.ReadResponse(p.r, nil)
	}
	switch {
	case err == nil:
		return "reads on"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "neither reads nor closes"
	}
	return "closes"
}
