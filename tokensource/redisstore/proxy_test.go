//go:build unix

package redisstore_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// A proxy stands between a client and a server, and can lose one answer.
type proxy struct {
	t      testing.TB
	server string
	l      net.Listener

	mu    sync.Mutex // guards what follows
	match []byte
	lost  func()
}

func newProxy(t testing.TB, server string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &proxy{t: t, server: server, l: l}
	go p.accept()
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

// lose makes the proxy cut the connection in place of the answer to the next
// command that holds match, once the server has given it, and calls lost.
func (p *proxy) lose(match string, lost func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match, p.lost = []byte(match), lost
}

// pending reports whether an answer is yet to be lost.
func (p *proxy) pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.match != nil
}

// matched returns what to call if command is the one to lose, else nil.
func (p *proxy) matched(command []byte) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.match == nil || !bytes.Contains(command, p.match) {
		return nil
	}
	p.match = nil
	return p.lost
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			client.Close()
			continue
		}
		go p.serve(client, server)
	}
}

// serve carries one connection. A client sends no command before the answer to
// the last, and each in one piece.
func (p *proxy) serve(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	answers := make(chan []byte)
	go read(server, answers)
	commands := make(chan []byte)
	go read(client, commands)
	var lost func()
	for {
		select {
		case command, ok := <-commands:
			if !ok {
				go drain(answers)
				return
			}
			lost = p.matched(command)
			server.Write(command)
		case answer, ok := <-answers:
			if !ok || lost != nil {
				go drain(commands)
				if lost != nil {
					lost()
				}
				return
			}
			client.Write(answer)
		}
	}
}

// read sends what comes, until the connection ends.
func read(from io.Reader, to chan<- []byte) {
	defer close(to)
	for {
		buf := make([]byte, 64<<10)
		n, err := from.Read(buf)
		if n > 0 {
			to <- buf[:n]
		}
		if err != nil {
			return
		}
	}
}

func drain(from <-chan []byte) {
	for range from {
	}
}
