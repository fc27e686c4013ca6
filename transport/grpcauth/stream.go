package grpcauth

import (
	"cmp"
	"context"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A stream records what it sends until it is known that its token is good.
type stream struct {
	open func(*call, []grpc.CallOption) (grpc.ClientStream, error)
	opts []grpc.CallOption
	fate atomic.Int32 // first, second or over

	turn  lock  // held while a refusal is answered; guards final
	final error // of a stream that was refused and is not made again

	send lock // held while sending; taken after turn

	mu      sync.Mutex // guards what follows; taken last
	call    *call
	current grpc.ClientStream
	sent    []proto.Message
	size    int64 // of sent, as taken from the budget
	closed  bool
	settled bool // the stream is not made again
	ended   bool // current has, with err
	err     error
}

// A lock is a mutex for a long time: in a test with package synctest, time passes while a
// goroutine waits for it.
type lock chan struct{}

func (l lock) take() { l <- struct{}{} }
func (l lock) free() { <-l }

// Bounds of recordings.
const (
	defaultMaxStream = 256 << 10
	defaultMaxMemory = 64 << 20
	messageOverhead  = 64
)

// start opens the stream of the call, and opens it once more if the call is refused.
func (s *stream) start() error {
	current, err := s.open(s.call, append(s.call.options(s.opts), grpc.OnFinish(s.finished)))
	if s.call.refused(err) {
		_, err = s.renew(nil, err)
		return err
	}
	s.current = current
	if err != nil {
		s.finish(first, err)
	}
	return err
}

// finished is the OnFinish of the first stream, and of more if an interceptor tries
// again. Success is an end. So is what the caller's context or the closed connection
// causes: it may come while no method is in progress. After another error the method in
// progress decides, because the interceptor may try again.
func (s *stream) finished(err error) {
	s.mu.Lock()
	s.ended, s.err = true, err
	s.mu.Unlock()
	switch status.Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded:
		s.conclude(err)
	}
}

// conclude ends the call with err, which the caller gets, if the first stream has ended.
func (s *stream) conclude(err error) {
	if ended, _ := s.end(); ended {
		s.settle()
		s.finish(first, noEOF(err))
	}
}

// Fates of a stream: whose end calls the caller's OnFinish.
const (
	first  = iota
	second // because the first was refused
	over   // it was called
)

// finish calls the caller's OnFinish if it waits for this end.
func (s *stream) finish(of int32, err error) {
	if s.fate.CompareAndSwap(of, over) {
		finish(s.opts, err)
	}
}

// SendMsg sends a message. If the stream has ended before, SendMsg finds out whether it
// is refused. If not, io.EOF tells the caller to stop. If the server sent headers first,
// only the caller's RecvMsg finds out; until then the message counts as sent.
func (s *stream) SendMsg(m any) error {
	old, recorded, err := s.sendOnce(m)
	if noEOF(err) != nil {
		s.conclude(err)
	}
	if err != io.EOF || !recorded {
		return err
	}
	old.Header()
	ended, err := s.end()
	if renewed, _ := s.renew(old, err); renewed || !ended {
		return nil // a second stream sends it
	}
	s.conclude(err)
	return io.EOF
}

func (s *stream) sendOnce(m any) (current grpc.ClientStream, recorded bool, err error) {
	s.send.take()
	defer s.send.free()
	current, recorded = s.record(m)
	return current, recorded, current.SendMsg(m)
}

// CloseSend closes the direction of sending.
func (s *stream) CloseSend() error {
	s.send.take()
	defer s.send.free()
	s.mu.Lock()
	s.closed = true
	current := s.current
	s.mu.Unlock()
	return current.CloseSend()
}

// RecvMsg receives a message. If the stream is refused instead, RecvMsg receives it
// from a second one.
func (s *stream) RecvMsg(m any) error {
	call, old := s.now()
	renewed, err := s.renew(old, old.RecvMsg(m))
	if renewed {
		return s.RecvMsg(m)
	}
	s.settle()
	call.judge(noEOF(err))
	if err != nil {
		s.conclude(err)
	}
	return err
}

// Header returns the headers, those of a second stream if the first is refused without.
func (s *stream) Header() (metadata.MD, error) {
	_, old := s.now()
	md, err := old.Header()
	_, end := s.end()
	if md != nil {
		s.settle()
		end = nil
	}
	if renewed, _ := s.renew(old, end); renewed {
		return s.Header()
	}
	if end != nil {
		s.conclude(end)
	}
	return md, err
}

// Context returns the context of a stream that is not made again from now on.
func (s *stream) Context() context.Context { return s.settle().Context() }

// Trailer returns the trailers.
func (s *stream) Trailer() metadata.MD { return s.settle().Trailer() }

// renew replaces the stream old, which ended with err, if it is refused and not replaced
// yet. If old stays, renew returns the caller's error. Its caller may not wait for the
// server meanwhile, so that the others go on with the second stream.
func (s *stream) renew(old grpc.ClientStream, err error) (bool, error) {
	s.turn.take()
	defer s.turn.free()
	call, current := s.now()
	switch {
	case current != old:
		return true, nil
	case !call.refused(err):
		return false, err
	case s.final == nil:
		s.final = err // it stays if the stream is over, such as cancelled, or the Source panics
		defer func() {
			if s.final != nil {
				s.finish(second, s.final)
			}
		}()
		if s.fate.CompareAndSwap(first, second) {
			s.final = s.again(err)
		}
	}
	return s.final == nil, s.final
}

// again opens a second stream after a refusal, and sends on it what was recorded. Else it
// returns the caller's error.
func (s *stream) again(refusal error) error {
	s.send.take() // the first stream has ended, so nothing is sent for long
	sent, size, closed, replayable := s.recording()
	done := func() {
		s.call.auth.budget.Give(size)
		s.send.free()
	}
	replays := false
	defer func() {
		if !replays {
			done()
		}
	}()
	next, err := s.call.again(refusal, replayable)
	if next == nil {
		return err
	}
	current, err := s.open(next, append(next.options(s.opts), grpc.OnFinish(func(err error) {
		next.judge(err)
		s.finish(second, err)
	})))
	if err != nil {
		next.judge(err)
		return err
	}
	s.replace(next, current)
	replays = true
	go resend(current, sent, closed, done) // the server may want its messages received before it takes more
	return nil
}

// resend sends what was recorded.
func resend(current grpc.ClientStream, sent []proto.Message, closed bool, done func()) {
	defer done()
	for _, m := range sent {
		current.SendMsg(m) // if it fails, RecvMsg says why, or an interceptor rejects only this one
	}
	if closed {
		current.CloseSend()
	}
}

// record records a message, and reports whether it and all before it are recorded.
func (s *stream) record(m any) (current grpc.ClientStream, recorded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled {
		return s.current, false
	}
	p, ok := m.(proto.Message)
	if !ok || !s.fits(int64(proto.Size(p)+messageOverhead)) {
		s.forget()
		return s.current, false
	}
	s.sent = append(s.sent, proto.Clone(p))
	return s.current, true
}

// fits reports whether the bounds allow n more bytes, and takes them; s.mu is held.
func (s *stream) fits(n int64) bool {
	a := s.call.auth
	if s.size+n > cmp.Or(a.MaxStream, defaultMaxStream) {
		return false
	}
	taken := a.budget.Take(n, cmp.Or(a.MaxMemory, defaultMaxMemory))
	s.size += taken
	return taken == n
}

// forget ends the recording; s.mu is held.
func (s *stream) forget() {
	s.call.auth.budget.Give(s.size)
	s.sent, s.size, s.settled = nil, 0, true
}

// recording returns the recording, if it is whole, and ends it. Its size is the caller's
// to give back.
func (s *stream) recording() (sent []proto.Message, size int64, closed, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent, size, whole = s.sent, s.size, !s.settled
	s.sent, s.size, s.settled = nil, 0, true
	return sent, size, s.closed, whole
}

// settle ends the recording and returns the current stream.
func (s *stream) settle() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	return s.current
}

// replace makes a second stream the current one; s.send is held.
func (s *stream) replace(next *call, current grpc.ClientStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call, s.current = next, current
}

// now returns the current stream and its call.
func (s *stream) now() (*call, grpc.ClientStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.call, s.current
}

// end returns whether the first stream has ended, and how.
func (s *stream) end() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.err
}

// noEOF returns err, or nil for the end of a stream without an error.
func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
