package main

import (
	"context"
	"net"
	"slices"
	"time"
)

// A pacedConn writes 1 Gbit/s: a token bucket of 64 KiB.
type pacedConn struct {
	net.Conn
	free time.Time // when all that was written has left
}

const perSecond, burst = 1e9 / 8, 64 * kib

func dialPaced(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &pacedConn{Conn: conn}, err
}

func (c *pacedConn) Write(p []byte) (int, error) {
	written := 0
	for piece := range slices.Chunk(p, burst/2) {
		if early := time.Until(c.free); early > time.Second*burst/perSecond {
			time.Sleep(early)
		}
		if now := time.Now(); c.free.Before(now) {
			c.free = now
		}
		c.free = c.free.Add(time.Duration(len(piece)) * time.Second / perSecond)
		n, err := c.Conn.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
