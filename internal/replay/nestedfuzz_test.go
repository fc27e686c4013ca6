package replay_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// A flow is a caller's body that takes its time, whose Reads must not overlap.
type flow struct {
	whole   []byte
	given   int
	piece   int           // the most that a Read gives
	fails   int           // where it fails with errScript; less than zero: never
	early   bool          // io.EOF comes with the last bytes
	patient bool          // Close waits for a Read in progress, as that of a server's inbound body
	lags    [4]byte       // of its Reads in turn, in ms
	reads   int           // how many there were
	busy    chan struct{} // holds a value while Read is in progress
	gone    chan struct{} // closed by Close
	closes  int
	trailer http.Header // the request's, which gets its value at the end
}

func (f *flow) Read(p []byte) (int, error) {
	select {
	case f.busy <- struct{}{}:
	default:
		panic("two Reads of the caller's body at once")
	}
	defer func() { <-f.busy }()
	f.reads++
	select {
	case <-time.After(time.Duration(f.lags[f.reads%len(f.lags)]) * time.Millisecond):
	case <-f.gone:
		return 0, io.ErrClosedPipe
	}
	if f.given == f.fails {
		return 0, errScript
	}
	end := len(f.whole)
	if f.fails > f.given {
		end = f.fails
	}
	n := copy(p[:min(len(p), f.piece)], f.whole[f.given:end])
	f.given += n
	if f.given == len(f.whole) && (f.early || n == 0) {
		if f.trailer != nil {
			f.trailer.Set("X", "sent")
		}
		return n, io.EOF
	}
	return n, nil
}

func (f *flow) Close() error {
	if f.closes++; f.closes > 1 {
		return nil
	}
	if f.patient {
		f.busy <- struct{}{}
		defer func() { <-f.busy }()
	}
	close(f.gone)
	return nil
}

// A sending is one attempt as the base sends it.
type sending struct {
	body                 io.ReadCloser
	trailer              http.Header
	stops                int  // after so many bytes; less than zero: at the end
	cuts, forgets, twice bool // it closes the body meanwhile, never, or twice

	got  []byte
	err  error
	done chan struct{}
}

func (s *sending) run(size int) {
	defer close(s.done)
	p := make([]byte, size)
	for s.err == nil && (s.stops < 0 || len(s.got) < s.stops) {
		var n int
		n, s.err = s.body.Read(p)
		s.got = append(s.got, p[:n]...)
	}
	if !s.forgets {
		s.body.Close()
	}
	if s.twice {
		s.body.Close()
	}
}

// A nest sends one request through owners, the one below the other, each of
// which may send it twice, over a base that does as the script says.
type nest struct {
	script []byte
	shared *shared
	src    *flow
	sent   []*sending
	gaveUp bool
}

// What is shared by the requests of a script: limits and budgets of the owners,
// the outermost last.
type shared struct {
	requests int
	limits   []replay.Limits
	budgets  []replay.Budget
}

// draw takes a number up to most from the script, zero at its end.
func (n *nest) draw(most int) int {
	if len(n.script) == 0 {
		return 0
	}
	c := n.script[0]
	n.script = n.script[1:]
	return int(c) % (most + 1)
}

func (n *nest) pause() { time.Sleep(time.Duration(n.draw(60)) * time.Millisecond) }

// portion is the size of a Read: a body is done with in a few of them.
func (n *nest) portion() int { return 1 + len(n.src.whole)/16 + 20*n.draw(255) }

// send is the base's RoundTrip: it returns when the body was sent, or earlier.
func (n *nest) send(req *http.Request) {
	s := &sending{body: req.Body, trailer: req.Trailer, stops: -1, done: make(chan struct{})}
	n.sent, n.gaveUp = append(n.sent, s), false
	how := n.draw(255)
	s.cuts, s.forgets, s.twice = how&3 == 3, how&12 == 12, how&48 == 48
	size := n.portion()
	if how&64 != 0 {
		s.stops = 64 * n.draw(255)
	}
	go s.run(size)
	if after := time.Duration(n.draw(100)) * time.Millisecond; s.cuts {
		time.AfterFunc(after, func() { s.body.Close() })
	}
	if how&128 != 0 {
		n.pause()
		return
	}
	<-s.done
}

// own is what Auth and DPoP do, and what may go wrong in them.
func (n *nest) own(t *testing.T, req *http.Request, level int) {
	if level < 0 {
		n.send(req)
		return
	}
	b := replay.New(req, n.shared.limits[level], &n.shared.budgets[level])
	defer b.Done()
	first := *req
	first.Body = b.First(req)
	n.own(t, &first, level-1)
	n.shared.check(t)
	what := n.draw(7)
	if what == 0 {
		return // of a panic, say
	}
	if what == 1 || !b.Hold(req) {
		if what != 1 && n.fits(level) {
			t.Errorf("owner %d of %d can't send a body again that is within its limits", level, len(n.shared.limits))
		}
		b.Release()
		return
	}
	n.pause()
	n.decide(t, req, level, b, what)
}

// fits reports whether the outermost owner can send the body again for sure.
func (n *nest) fits(level int) bool {
	l := n.shared.limits[level]
	most := min(l.Body, l.Total/int64(n.shared.requests))
	return level == len(n.shared.limits)-1 && l.Body <= most && int64(len(n.src.whole)) <= most && n.src.fails < 0
}

// decide is what follows after a Body was held.
func (n *nest) decide(t *testing.T, req *http.Request, level int, b *replay.Body, what int) {
	switch {
	case what == 2:
		b.Release()
		return
	case what == 3 && level == len(n.shared.limits)-1:
		b.Close()
		n.gaveUp = true
		return
	}
	next, err := b.Next(req)
	if err != nil {
		t.Fatal(err)
	}
	if what == 4 { // the second attempt fails before it is sent
		next.Body.Close()
		n.gaveUp = true
		return
	}
	second := *req
	second.Body, second.Trailer = next.Body, next.Trailer
	n.own(t, &second, level-1)
}

// check fails if more memory is taken than the limits allow, or by an owner
// below another that records already.
func (s *shared) check(t *testing.T) {
	for i := range s.budgets {
		used, l := s.budgets[i].Used(), s.limits[i]
		if used < 0 || used > l.Total || used > l.Body*int64(s.requests) || used > 0 && i < len(s.limits)-1 && s.limits[len(s.limits)-1].Body > 0 {
			t.Errorf("owner %d of %d: got %d bytes taken, limits %v", i, len(s.limits), used, l)
		}
	}
}

// FuzzNested sends one or two requests through owners that share their budgets,
// by a script. Whatever happens, no attempt sees anything but the body from its
// beginning, nor io.EOF before its end; the last gets all of it, unless it is
// given up or the body itself fails; the body is closed once; the budgets are
// empty when the base has closed what it got; nobody waits for ever.
func FuzzNested(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\xff\xff\xff\xff\x10\xff\x00\x05\x05\x05\x05\x00\x80\x10\x00\x20\x07\x10\x00\x30"))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 400 {
			return // says no more than a short one
		}
		synctest.Test(t, func(t *testing.T) {
			head := &nest{script: script}
			s := &shared{requests: 1 + head.draw(1)}
			s.limits = make([]replay.Limits, 1+head.draw(2))
			s.budgets = make([]replay.Budget, len(s.limits))
			for i := range s.limits {
				s.limits[i] = replay.Limits{Body: int64(100 * head.draw(255)), Total: int64(150 * head.draw(255))}
			}
			s.limits[0].Body++ // else nobody records, and there is nothing to test
			rest := head.script
			half := len(rest) / s.requests
			nests, done := []*nest{}, make(chan *nest)
			for i := range s.requests {
				n := &nest{script: rest[i*half : (i+1)*half], shared: s}
				go func() {
					n.play(t)
					done <- n
				}()
			}
			for range s.requests {
				nests = append(nests, <-done)
			}
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			forgotten := false
			for _, n := range nests {
				n.wantWhole(t)
				forgotten = forgotten || n.sent[len(n.sent)-1].forgets
			}
			if !forgotten { // else the collector gives the rest back
				wantEmpty(t, s)
			}
		})
	})
}

// play sends one request.
func (n *nest) play(t *testing.T) {
	n.src = &flow{whole: make([]byte, 1+80*n.draw(255)), fails: -1, busy: make(chan struct{}, 1), gone: make(chan struct{})}
	n.src.piece = n.portion()
	for i := range n.src.whole {
		n.src.whole[i] = byte(i * i >> 5)
	}
	how := n.draw(255)
	n.src.early, n.src.patient = how&1 != 0, how&2 != 0
	for i := range n.src.lags {
		n.src.lags[i] = byte(n.draw(40))
	}
	req := request(n.src)
	if how&4 != 0 {
		req.ContentLength = int64(len(n.src.whole))
	}
	if how&8 != 0 {
		req.Trailer = http.Header{"X": nil}
		n.src.trailer = req.Trailer
	}
	if how&48 == 48 {
		n.src.fails = min(80*n.draw(255), len(n.src.whole)-1)
	}
	n.own(t, req, len(n.shared.limits)-1)
}

func wantEmpty(t *testing.T, s *shared) {
	for i := range s.budgets {
		if used := s.budgets[i].Used(); used != 0 {
			t.Errorf("owner %d of %d: got %d bytes taken at the end, want 0", i, len(s.limits), used)
		}
	}
}

// wantWhole checks what became of a request when all is over.
func (n *nest) wantWhole(t *testing.T) {
	for i, s := range n.sent {
		select {
		case <-s.done:
		default:
			t.Fatalf("attempt %d of %d waits for ever", i+1, len(n.sent))
		}
		if !bytes.HasPrefix(n.src.whole, s.got) || s.err == io.EOF && len(s.got) < len(n.src.whole) {
			t.Errorf("attempt %d of %d: got %d bytes and %v, want %d from the beginning, all of them at EOF", i+1, len(n.sent), len(s.got), s.err, len(n.src.whole))
		}
	}
	last := n.sent[len(n.sent)-1]
	want := io.EOF
	if n.src.fails >= 0 {
		want = errScript
	}
	switch {
	case n.gaveUp || last.cuts || last.stops >= 0:
	case last.err != want || len(last.got) != n.src.given:
		t.Errorf("last attempt of %d: got %d bytes and %v, want %d and %v", len(n.sent), len(last.got), last.err, n.src.given, want)
	case want == io.EOF && n.src.trailer != nil && last.trailer.Get("X") != "sent":
		t.Errorf("last attempt of %d: got the trailers %v", len(n.sent), last.trailer)
	}
	if forgot := last.forgets && !last.cuts && !last.twice && !n.gaveUp; n.src.closes > 1 || n.src.closes == 0 && !forgot {
		t.Errorf("the body was closed %d times", n.src.closes)
	}
}
