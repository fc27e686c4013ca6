package sim_test

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"time"
)

// A source is a caller's body: it comes in pieces, at once or slowly, may fail
// in the middle, and is closed by somebody.
type source struct {
	w       *world
	call    *call
	content []byte
	read    int
	pace    *dice
	slow    bool
	failsAt int  // -1: never
	sticks  int  // where a Read waits until Close; -1: nowhere
	polite  bool // Close waits for a Read in progress
	trailer http.Header

	gone    chan struct{}
	once    sync.Once
	reading int
	idle    chan struct{} // closed when the Read in progress has returned
	closes  int
}

// content is what the body of a request is. Nobody may write to it.
func content(id, size int) []byte { return contents[byte(id*31)]()[:size:size] }

// contents are made once: to make one for each request takes longer than to send it.
var contents = func() (of [256]func() []byte) {
	for first := range of {
		of[first] = sync.OnceValue(func() []byte {
			c := make([]byte, maxContent)
			for i := range c {
				c[i] = byte(first + i*7 + i>>8)
			}
			return c
		})
	}
	return of
}()

const maxContent = 20_000

func (s *source) Read(p []byte) (int, error) {
	s.w.mu.Lock()
	s.reading++
	s.idle = make(chan struct{})
	if s.reading > 1 {
		s.w.broken("request %d: two Reads of the body at once", s.call.id)
	}
	s.w.mu.Unlock()
	n, err := s.next(p)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.reading--
	close(s.idle)
	return n, err
}

func (s *source) next(p []byte) (int, error) {
	if s.slow && s.pace.chance(0.3) {
		s.wait(s.pace.upTo(s.w.way()))
	}
	switch {
	case s.sticks >= 0 && s.read >= s.sticks:
		<-s.gone
		return 0, errStuck
	case s.failsAt >= 0 && s.read >= s.failsAt:
		return 0, s.call.bodyFault()
	}
	n := copy(p[:min(len(p), 1+s.pace.IntN(4000))], s.content[s.read:])
	s.read += n
	clear(p[n:min(n+16, len(p))]) // a Read may use all of p
	if s.read == len(s.content) && (n == 0 || s.pace.chance(0.5)) && s.failsAt < 0 && s.sticks < 0 {
		if s.trailer != nil {
			s.trailer.Set("X-Sum", "whole")
		}
		return n, io.EOF
	}
	return n, nil
}

func (s *source) wait(d time.Duration) {
	select {
	case <-s.gone:
	case <-time.After(d):
	}
}

func (s *source) Close() error {
	s.w.mu.Lock()
	s.closes++
	if s.closes > 1 {
		s.w.broken("request %d: the body was closed %d times", s.call.id, s.closes)
	}
	idle := s.idle
	if s.reading == 0 {
		idle = nil
	}
	s.w.mu.Unlock()
	s.once.Do(func() { close(s.gone) })
	if s.polite && idle != nil {
		<-idle
	}
	return nil
}

// A copied is a body that GetBody made.
type copied struct {
	*bytes.Reader
	w      *world
	closes int
}

func (c *copied) Close() error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.closes++; c.closes > 1 {
		c.w.broken("a body of GetBody was closed twice")
	}
	return nil
}
