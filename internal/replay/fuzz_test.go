package replay_test

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/internal/replay"
)

var errScript = errors.New("the script breaks the body")

// A scripted body gives as many bytes as the script says when the script says so.
type scripted struct {
	whole []byte
	given int
	steps chan int // how many bytes; zero: errScript
	gone  chan struct{}

	mu      sync.Mutex
	waiting bool
	closes  int
}

func (s *scripted) Read(p []byte) (int, error) {
	s.set(true)
	defer s.set(false)
	select {
	case <-s.gone:
		return 0, io.ErrClosedPipe
	case n := <-s.steps:
		if n == 0 {
			return 0, errScript
		}
		n = copy(p[:min(n, len(p))], s.whole[s.given:])
		s.given += n
		if s.given == len(s.whole) {
			return n, io.EOF
		}
		return n, nil
	}
}

func (s *scripted) set(waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = waiting
}

func (s *scripted) step(n int) {
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	if waiting {
		s.steps <- n
	}
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closes++; s.closes == 1 {
		close(s.gone)
	}
	return nil
}

// A reader reads an attempt in a goroutine, a Read at a time.
type reader struct {
	body   io.ReadCloser
	sizes  chan int
	mu     sync.Mutex
	busy   bool
	got    []byte
	err    error
	closed bool
}

func newReader(body io.ReadCloser) *reader {
	r := &reader{body: body, sizes: make(chan int)}
	go func() {
		for size := range r.sizes {
			p := make([]byte, size)
			n, err := r.body.Read(p)
			r.mu.Lock()
			r.busy, r.got, r.err = false, append(r.got, p[:n]...), err
			r.mu.Unlock()
		}
	}()
	return r
}

// read starts a Read unless one is in progress or the last one failed.
func (r *reader) read(size int) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	idle := !r.busy && r.err == nil
	r.busy = r.busy || idle
	r.mu.Unlock()
	if idle {
		r.sizes <- size
	}
	return idle
}

func (r *reader) close() {
	if r != nil {
		r.closed = true
		r.body.Close()
	}
}

// check fails unless what was read is how the body begins, all of it at io.EOF.
func (r *reader) check(t *testing.T, who string, src *scripted) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.HasPrefix(src.whole, r.got) || r.err == io.EOF && len(r.got) < len(src.whole) {
		t.Fatalf("%s attempt: got %x and %v, want a prefix of %x, all of it at EOF", who, r.got, r.err, src.whole)
	}
}

// A play is a Body, its attempts, and where its owner is in Hold, then Release, Next or Close.
type play struct {
	src           *scripted
	body          *replay.Body
	budget        replay.Budget
	first, second *reader
	held, decided bool
}

// FuzzBody plays a script on a body: reads, or what WriteTo writes, by both attempts, pieces that arrive, what the
// owner decides, and Closes, in any order.
func FuzzBody(f *testing.F) {
	f.Add([]byte{20, 255, 255, 0x30, 0x12, 0x30, 0x03, 0x06, 0x31, 0x32, 0x72})
	f.Add([]byte{9, 3, 9, 0x30, 0x72, 0x30, 0x72, 0x03, 0x04, 0x07})
	f.Add([]byte{40, 255, 255, 0xf0, 0x03, 0x72, 0xf0, 0x07, 0x06, 0x08, 0xf1})
	f.Add([]byte{40, 255, 8, 0xf0, 0x03, 0x05, 0xf0, 0x72, 0x0b, 0x07, 0x02})
	f.Add([]byte{40, 255, 8, 0xf0, 0x03, 0x06, 0xf1, 0x08, 0x72, 0x0a})
	f.Add([]byte{42, 255, 8, 0x72, 0x03, 0x06, 0x72, 0x31, 0x72, 0x31, 0x08})
	f.Add([]byte{23, 3, 255, 0x12, 0x30, 0x72, 0x03, 0x30, 0x04, 0x72})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 3 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPlay(int(script[0]), int64(script[1]), int64(script[2]))
			for _, op := range script[3:] {
				p.do(int(op%16), int(op/16)+1)
				synctest.Wait()
				p.first.check(t, "first", p.src)
				p.second.check(t, "second", p.src)
				p.checkClosed(t)
			}
			p.finish(t)
		})
	})
}

func newPlay(size int, bound, total int64) *play {
	p := &play{src: &scripted{whole: make([]byte, size+1), steps: make(chan int), gone: make(chan struct{})}}
	for i := range p.src.whole {
		p.src.whole[i] = byte(i)
	}
	req := request(p.src)
	if size%2 == 0 {
		req.ContentLength = int64(len(p.src.whole))
	}
	p.body = replay.New(req, replay.Limits{Body: bound + 1, Total: total + 1}, &p.budget)
	p.first = p.reader(p.body.First(req))
	return p
}

// reader reads every other pair of sizes through WriteTo.
func (p *play) reader(body io.ReadCloser) *reader {
	if len(p.src.whole)/2%2 == 1 {
		body = newPiped(body)
	}
	return newReader(body)
}

func (p *play) do(op, n int) {
	switch op {
	case 0:
		p.first.read(n)
	case 1:
		p.second.read(n)
	case 2:
		p.src.step(n)
	case 3:
		p.held = p.held || !p.decided && p.body.Hold(request(p.src))
	case 4:
		p.decide(p.body.Release)
	case 5:
		p.decide(p.body.Close)
	case 6:
		if p.held {
			p.decide(func() {
				next, _ := p.body.Next(request(p.src))
				p.second = p.reader(next.Body)
			})
		}
	case 7:
		p.first.close()
	case 8:
		p.second.close()
	case 10:
		if p.decided {
			p.body.Done()
		}
	case 11:
		p.src.step(0)
	}
}

func (p *play) decide(how func()) {
	if !p.decided {
		p.decided = true
		how()
	}
}

// checkClosed fails if a Read goes on after its attempt was closed, unless it waits for the
// caller's body.
func (p *play) checkClosed(t *testing.T) {
	busy := 0
	for _, r := range []*reader{p.first, p.second} {
		if r != nil && r.closed && r.busy {
			busy++
		}
	}
	if busy > 1 || busy == 1 && !p.src.waiting {
		t.Fatalf("%d Reads go on after Close, and the caller's body is read: %t", busy, p.src.waiting)
	}
}

// finish reads the second attempt to its end, and closes all that is open, as every base does.
func (p *play) finish(t *testing.T) {
	for p.second != nil && p.second.err == nil {
		p.second.read(7)
		synctest.Wait()
		p.src.step(5)
		synctest.Wait()
	}
	p.second.check(t, "second", p.src)
	p.decide(p.body.Release)
	p.first.close()
	p.second.close()
	p.body.Done()
	synctest.Wait()
	close(p.first.sizes)
	if p.second != nil {
		close(p.second.sizes)
		if err := p.second.err; err == replay.ErrCut || err == io.ErrClosedPipe && !p.second.closed {
			t.Errorf("second attempt: got %v, want io.EOF or the body's error", err)
		}
	}
	if used := p.budget.Used(); used != 0 || p.src.closes != 1 {
		t.Errorf("at the end: got %d bytes taken and %d closes, want 0 and 1", used, p.src.closes)
	}
}
