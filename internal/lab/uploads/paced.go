package main

import (
	"context"
	"net"
	"slices"
	"time"
)

// A pacedConn writes 1 Gbit/s, as behind a buffer of 512 KiB that drains at that
// rate. It sleeps until half of the buffer is free, so that to sleep 2 ms too long
// costs nothing.
type pacedConn struct {
	net.Conn
	free time.Time // when all that was written has left
}

const perSecond, buffer = 1e9 / 8, 512 * kib

func dialPaced(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &pacedConn{Conn: conn}, err
}

func (c *pacedConn) Write(p []byte) (int, error) {
	written := 0
	for piece := range slices.Chunk(p, 32*kib) {
		if early := time.Until(c.free); early > time.Second*buffer/perSecond {
			time.Sleep(early - time.Second*buffer/2/perSecond)
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
