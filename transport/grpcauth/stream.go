package grpcauth

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// A stream records what it sends until it is known that its token is good.
type stream struct {
	open func(*call, []grpc.CallOption) (grpc.ClientStream, error)
	opts []grpc.CallOption

	recv  lock // held while receiving; guards call and final
	call  *call
	final error // of a stream that was refused and is not made again

	send lock // held while sending; taken after recv

	mu      sync.Mutex // guards what follows; taken last
	current grpc.ClientStream
	sent    []proto.Message
	size    int
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
	messageOverhead  = 64
)

// start opens the stream of the call, and opens it once more if the call is refused.
func (s *stream) start() error {
	current, err := s.open(s.call, append(s.call.first(s.opts), grpc.OnFinish(s.finished)))
	if s.call.refused(err) {
		return s.again(err)
	}
	s.current = current
	return err
}

// finished is the OnFinish of the first stream.
func (s *stream) finished(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.err = true, err
}

// SendMsg sends a message, or records it if the stream has ended for an unknown reason.
func (s *stream) SendMsg(m any) error {
	current, recorded, err := s.sendOnce(m)
	if err != io.EOF || !recorded {
		return err
	}
	return s.sentLate(current)
}

func (s *stream) sendOnce(m any) (current grpc.ClientStream, recorded bool, err error) {
	s.send.take()
	defer s.send.free()
	current, recorded = s.record(m)
	return current, recorded, current.SendMsg(m)
}

// sentLate finds out whether a stream that ended before a message was sent is refused.
// If not, io.EOF tells the caller to stop. If the server sent headers first, only the
// caller's RecvMsg finds out; until then the message counts as sent.
func (s *stream) sentLate(old grpc.ClientStream) error {
	s.recv.take()
	defer s.recv.free()
	if !s.is(old) {
		return nil // the new stream sends it
	}
	old.Header()
	switch ended, err := s.end(); {
	case !ended:
		return nil
	case s.call.refused(err) && s.again(err) == nil:
		return nil
	}
	s.settle()
	return io.EOF
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
	s.recv.take()
	defer s.recv.free()
	if s.final != nil {
		return s.final
	}
	err := s.current.RecvMsg(m)
	if s.call.refused(err) {
		if err = s.again(err); err != nil {
			return err
		}
		err = s.current.RecvMsg(m)
	}
	s.settle()
	s.call.judge(noEOF(err))
	return err
}

// Header returns the headers, those of a second stream if the first is refused without.
func (s *stream) Header() (metadata.MD, error) {
	s.recv.take()
	defer s.recv.free()
	md, err := s.current.Header()
	if ended, end := s.end(); md == nil && err == nil && ended && s.final == nil && s.call.refused(end) && s.again(end) == nil {
		md, err = s.current.Header()
	}
	if md != nil {
		s.settle()
	}
	return md, err
}

// Context returns the context of a stream that is not made again from now on.
func (s *stream) Context() context.Context { return s.settle().Context() }

// Trailer returns the trailers.
func (s *stream) Trailer() metadata.MD { return s.settle().Trailer() }

// again opens a second stream after a refusal, and sends on it what was recorded, or
// returns the caller's error. s.recv is held.
func (s *stream) again(refusal error) error {
	s.send.take() // the first stream has ended, so nothing is sent for long
	sent, closed, replayable := s.recording()
	next, err := s.call.again(refusal, replayable)
	if next == nil {
		s.send.free()
		s.final = s.call.finish(s.opts, err)
		return s.final
	}
	current, err := s.open(next, append(next.options(s.opts), grpc.OnFinish(next.judge)))
	if err != nil {
		s.send.free()
		next.judge(err)
		s.final = err
		return err
	}
	s.replace(next, current)
	go func() { // the server may want its messages received before it takes more
		defer s.send.free()
		for _, m := range sent {
			if current.SendMsg(m) != nil {
				return // RecvMsg says why
			}
		}
		if closed {
			current.CloseSend()
		}
	}()
	return nil
}

// record records a message, and reports whether it and all before it are recorded.
func (s *stream) record(m any) (current grpc.ClientStream, recorded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled {
		return s.current, false
	}
	p, ok := message(m)
	if ok {
		s.size += proto.Size(p) + messageOverhead
	}
	if !ok || s.size > s.call.auth.maxStream() {
		s.settled, s.sent = true, nil
		return s.current, false
	}
	s.sent = append(s.sent, proto.Clone(p))
	return s.current, true
}

// recording returns the recording, if it is whole, and ends it.
func (s *stream) recording() (sent []proto.Message, closed, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent, whole = s.sent, !s.settled
	s.sent, s.settled = nil, true
	return sent, s.closed, whole
}

// settle ends the recording and returns the current stream.
func (s *stream) settle() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent, s.settled = nil, true
	return s.current
}

// replace makes a second stream the current one; s.recv and s.send are held.
func (s *stream) replace(next *call, current grpc.ClientStream) {
	s.call = next
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = current
}

func (s *stream) is(current grpc.ClientStream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == current
}

// end returns whether the first stream has ended, and how.
func (s *stream) end() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.err
}

// message returns a message of Protocol Buffers.
func message(m any) (proto.Message, bool) {
	switch m := m.(type) {
	case proto.Message:
		return m, true
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(m), true
	}
	return nil, false
}

// noEOF returns err, or nil for the end of a stream without an error.
func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// maxStream returns the bound of a recording.
func (a *Auth) maxStream() int {
	if a.MaxStream == 0 {
		return defaultMaxStream
	}
	return a.MaxStream
}
