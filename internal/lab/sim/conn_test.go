package sim_test

import (
	"errors"
	"net/http"
	"time"
)

// A conn is a connection over HTTP/1.1 in a world whose servers close connections
// after a refused upload. In other worlds connections play no part, and conn is nil.
type conn struct{ host string }

// connect returns the connection for a request: the last that became idle, or
// another; w.mu is held.
func (p *process) connect(host string) *conn {
	if !p.w.closes {
		return nil
	}
	idle := p.idle[host]
	if len(idle) == 0 {
		return &conn{host}
	}
	last := len(idle) - 1
	p.idle[host] = idle[:last]
	return idle[last]
}

// free makes the connection idle.
func (s *sending) free() {
	if c := s.conn; c != nil {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		s.p.idle[c.host] = append(s.p.idle[c.host], c)
	}
}

// CloseIdleConnections is what the library may call, as of an http.Transport.
func (x wire) CloseIdleConnections() {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	clear(x.p.idle)
}

// onConn checks that a request does not go again on the connection on which it
// was refused; w.mu is held.
func (s *sending) onConn() {
	if c := s.call; s.conn != nil && s.conn == c.conn {
		s.w.broken("request %d: sent again on the connection of its refusal, which is being closed", c.id)
	}
}

// small is the size of bodies that servers read with the header.
const small = 8 << 10

// doom notes that the server will close the connection, for it has refused an upload.
func (s *sending) doom() {
	if s.conn != nil && len(s.call.content) > small {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		s.call.conn = s.conn
	}
}

// closed draws whether the server closes the connection at once, and the rest of the
// body cannot be sent.
func (s *sending) closed() bool {
	c := s.call
	return s.conn != nil && (c.body != nil || len(c.content) > small) && c.replayable() && s.d.chance(0.3)
}

// write is how long it takes to write a piece of the body, or to fail.
func (s *sending) write(long time.Duration) {
	select {
	case <-s.broken:
	case <-time.After(long):
	}
}

// unseen reports whether net/http throws the refusal away: it closes the body
// when a write has failed, and reports that failure as soon as the body is
// closed, though the refusal is about to be read (golang/go#51109).
func (s *sending) unseen() bool {
	select {
	case <-s.done:
		return s.cut
	case <-time.After(time.Millisecond):
		return false
	}
}

var errUnseen = errors.New("write: broken pipe")

// sent reports whether all of the body was.
func (s *sending) sent() bool {
	select {
	case <-s.done:
		return s.err == nil
	default:
		return false
	}
}

// empties draws whether a refusal has no body.
func (s *sending) empties() bool { return s.conn != nil && s.d.chance(0.3) }

// empty makes a refusal one without a body: net/http has its connection back
// before the client can tell that it should not be used again.
func (s *sending) empty(resp *http.Response) {
	resp.Body, resp.ContentLength = http.NoBody, 0
	if s.sent() {
		s.free()
		return
	}
	s.stopped.Store(true)
	s.abandon()
}
