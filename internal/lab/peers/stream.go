package main

import (
	"io"
	"math/rand/v2"
	"sync"
)

// A stream is a body that can be read once, and is made while it is read: in so
// many pieces, with a call of between after each. With no pieces it is made as
// fast as it is read.
type stream struct {
	size    int64
	pieces  int64
	between func()

	read int64
}

// pattern is what streams are made of, again and again. Its length is no
// multiple of anything, so that a part that is missing, or comes twice, shows.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, 1<<20-3)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

func (s *stream) Read(p []byte) (int, error) {
	n := s.size - s.read
	if s.pieces > 0 {
		piece := s.size / s.pieces
		if s.read > 0 && (s.read%piece == 0 || n == 0) {
			s.between()
		}
		n = min(n, piece-s.read%piece)
	}
	if n == 0 {
		return 0, io.EOF
	}
	from := pattern()[s.read%int64(len(pattern())):]
	done := copy(p[:min(int64(len(p)), n)], from)
	s.read += int64(done)
	return done, nil
}

func (s *stream) Close() error { return nil }

// sums are the arrivals of whole streams.
var sums sync.Map

// whole reports whether all of a stream of that size has arrived.
func (a arrival) whole(size int64) bool {
	sum, ok := sums.Load(size)
	if !ok {
		all, _ := arrive(&stream{size: size})
		sum = all.sum
		sums.Store(size, sum)
	}
	return a.length == size && a.sum == sum.(uint32)
}
