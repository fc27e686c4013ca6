package contract

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// A network has one listener, and connections in memory.
type network struct {
	incoming chan net.Conn
	down     chan struct{}
	dials    atomic.Int32 // connections made so far
	open     atomic.Int32 // connections that the client has not closed
	stale    atomic.Bool  // the server has closed the connection that is written to next
}

func newNetwork() *network {
	return &network{incoming: make(chan net.Conn), down: make(chan struct{})}
}

var errRefused = errors.New("connection refused")

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case n.incoming <- server:
	case <-n.down:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &conn{Conn: client, network: n, closed: n.dialed()}, nil
}

// dialed counts a connection, which the client closes by what it returns.
func (n *network) dialed() (closed func()) {
	n.dials.Add(1)
	n.open.Add(1)
	return sync.OnceFunc(func() { n.open.Add(-1) })
}

// Accept implements net.Listener.
func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.incoming:
		return c, nil
	case <-n.down:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. An http.Server calls it once.
func (n *network) Close() error { close(n.down); return nil }

// Addr implements net.Listener.
func (n *network) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// A conn is the client's end of a connection.
type conn struct {
	net.Conn
	network *network
	closed  func()
}

func (c *conn) Write(p []byte) (int, error) {
	if c.network.stale.CompareAndSwap(true, false) {
		c.Close()
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
}
