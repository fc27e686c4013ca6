package sim_test

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// read reads the body as a transport does.
func (s *sending) read() {
	defer close(s.done)
	d := s.w.draw("read", s.call.id, s.n)
	defer s.closeBody()
	defer s.crash()
	if s.req.Body == nil {
		return
	}
	size, slow := 1+d.IntN(maxBuffer), d.chance(0.3) || s.conn != nil // so that an upload is refused while it is on its way
	if body, ok := s.req.Body.(io.WriterTo); ok && s.req.ContentLength < 0 && d.chance(0.5) {
		s.copy(body, slow, d)
		return
	}
	buffer := buffers.Get().(*[maxBuffer]byte)
	defer buffers.Put(buffer)
	for !s.stopped.Load() {
		n, err := s.req.Body.Read(buffer[:size])
		s.gotten(buffer[:n])
		switch {
		case err == io.EOF:
			s.end()
			return
		case err != nil:
			s.err = err
			return
		case s.req.ContentLength > 0 && int64(s.got) == s.req.ContentLength && size%2 == 0:
			s.end() // the server has it all, and needs to see no EOF
			return
		}
		if slow {
			s.write(d.upTo(s.w.way() / 4))
		}
	}
	s.cut = s.got > 0 && s.got < len(s.call.content)
}

// crash ends the program if the body panics, before closeBody waits for a mutex that
// the panic has left locked.
func (s *sending) crash() {
	if r := recover(); r != nil {
		go panic(fmt.Sprintf("seed %d: %v", s.w.seed, r))
	}
}

// buffers are what bodies are read into. Nothing but the Read may keep one.
var buffers = sync.Pool{New: func() any { return new([maxBuffer]byte) }}

const maxBuffer = 5000

// gotten checks a piece of the body.
func (s *sending) gotten(piece []byte) {
	whole := s.call.content
	if at := min(s.got, len(whole)); !bytes.HasPrefix(whole[at:], piece) {
		s.w.mu.Lock()
		s.w.broken("request %d, %d: other bytes than the body's after %d", s.call.id, s.n, at)
		s.w.mu.Unlock()
	}
	s.got += len(piece)
}

// copy reads the body as net/http does one of unknown length over HTTP/1.1.
func (s *sending) copy(body io.WriterTo, slow bool, d *dice) {
	_, err := body.WriteTo(writer(func(p []byte) (int, error) {
		if s.stopped.Load() {
			s.cut = true
			return 0, errStuck
		}
		s.gotten(p)
		if slow {
			s.write(d.upTo(s.w.way() / 4))
		}
		return len(p), nil
	}))
	if err != nil {
		s.err = err
		return
	}
	s.end()
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// end checks a body that looks whole.
func (s *sending) end() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.got != len(s.call.content) {
		s.w.broken("request %d, %d: %d bytes look like the whole body of %d", s.call.id, s.n, s.got, len(s.call.content))
	}
	if s.call.body != nil && s.call.body.trailer != nil && s.req.Trailer.Get("X-Sum") != "whole" && s.req.ContentLength < 0 {
		s.w.broken("request %d, %d: the trailer did not come", s.call.id, s.n)
	}
}

// abandon closes the body of a request that is over, at once or soon, even while
// it is being read.
func (s *sending) abandon() {
	if s.d.chance(0.5) {
		go s.closeBody()
	} else {
		go func() {
			time.Sleep(s.d.upTo(time.Second))
			s.closeBody()
		}()
	}
}
