package replay_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// pieces is a body of so many bytes, in Reads of at most piece bytes.
func pieces(size, piece int) io.ReadCloser {
	return io.NopCloser(&inPieces{strings.NewReader(long[:size]), piece})
}

var long = strings.Repeat("x", 2<<20) // shared, so that bodies take no memory

type inPieces struct {
	io.Reader
	piece int
}

func (p *inPieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.piece)]) }

// readers are the two ways of a base to read a body.
var readers = map[string]func(io.Reader) (int64, error){
	"Read":    func(r io.Reader) (int64, error) { return io.Copy(io.Discard, struct{ io.Reader }{r}) },
	"WriteTo": func(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) },
}

// A Read that crosses the bound fits in part.
func TestARecordingPastItsBoundIsFreedAtOnce(t *testing.T) {
	const uploads, bound, size = 16, 1 << 20, 1<<20 + 5000
	for how, read := range readers {
		for _, piece := range []int{700, 1000, 4096} {
			before := heap()
			var budget replay.Budget
			all := make([]*replay.Body, uploads)
			for i := range all {
				req := request(pieces(size, piece))
				all[i] = replay.New(req, replay.Limits{Body: bound, Total: 64 * bound}, &budget)
				if n, err := read(all[i].First(req)); n != size || err != nil {
					t.Fatalf("%s: got %d bytes and %v, want %d", how, n, err, size)
				}
			}
			want(t, fmt.Sprintf("%s of %d: budget", how, piece), budget.Used(), int64(0))
			if held := heap() - before; held > uploads*100<<10 {
				t.Errorf("%s of %d: %d KiB are held by %d recordings past their bound", how, piece, held>>10, uploads)
			}
			for _, b := range all {
				b.Done()
			}
		}
	}
}

func TestASecondAttemptThatWasAnsweredEarlyCountsUntilItIsReadOrClosed(t *testing.T) {
	for how, end := range map[string]func(io.ReadCloser){
		"read":   func(body io.ReadCloser) { io.Copy(io.Discard, body) },
		"closed": func(body io.ReadCloser) { body.Close() },
	} {
		var budget replay.Budget
		req := request(pieces(100_000, 4096))
		b := replay.New(req, roomy, &budget)
		io.Copy(io.Discard, b.First(req))
		b.Hold(req)
		next := mustNext(t, b, req)
		b.Done() // RoundTrip returns
		want(t, how+": not yet", budget.Used() >= 100_000, true)
		end(next.Body)
		want(t, how+": after", budget.Used(), int64(0))
		for range 100 { // what was given back is not given back again
			runtime.GC()
			runtime.Gosched()
		}
		want(t, how+": when it was collected", budget.Used(), int64(0))
	}
}

func TestASecondAttemptGivesBackEachChunkThatItHasRead(t *testing.T) {
	for how, read := range readers {
		var budget replay.Budget
		req := request(pieces(100*kib, 4*kib))
		b := replay.New(req, roomy, &budget)
		read(b.First(req)) // 64 KiB and 64 KiB, or 4, 4, 8, 16, 32 and 64 KiB
		b.Hold(req)
		next := mustNext(t, b, req)
		all := budget.Used()
		first := all / 2
		if how == "Read" {
			first = 4 * kib
			io.CopyN(io.Discard, struct{ io.Reader }{next.Body}, first)
			next.Body.Read(make([]byte, 1))
		} else {
			io.Copy(&writer{most: int(first) + 1}, next.Body)
		}
		want(t, how+": budget", budget.Used(), all-first)
		b.Done()
	}
}

func TestWhatIsKeptBeyondTheBoundDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		var budget replay.Budget
		b := replay.New(req, replay.Limits{Body: 3, Total: 3}, &budget)
		first := readAsync(b.First(req))
		synctest.Wait()
		b.Hold(req)
		src.pieces <- strings.Repeat("x", 90)
		synctest.Wait()
		want(t, "budget", budget.Used(), int64(3))
		want(t, "first Read", len(now(first)), 90)
		next := mustNext(t, b, req)
		b.Done()
		close(src.pieces)
		n, err := io.Copy(io.Discard, next.Body)
		want(t, "second attempt", fmt.Sprint(n, err), "90 <nil>")
		want(t, "budget at the end", budget.Used(), int64(0))
	})
}

func TestWhatABaseForgetsIsGivenBack(t *testing.T) {
	var budget replay.Budget
	func() {
		req := request(pieces(100_000, 4096))
		b := replay.New(req, roomy, &budget)
		io.Copy(io.Discard, b.First(req))
		b.Hold(req)
		mustNext(t, b, req)
		b.Done()
	}()
	for range 1000 {
		if runtime.GC(); budget.Used() == 0 {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("%d bytes are still taken", budget.Used())
}

func TestTheEndOfABodyOfKnownLengthTakesNothingFromTheBudget(t *testing.T) {
	for _, c := range []struct{ size, taken int }{
		{1, 4 * kib}, {4 * kib, 4 * kib}, {64 * kib, 64 * kib}, {256 * kib, 256 * kib}, {300 * kib, 320 * kib}, {1024 * kib, 1024 * kib},
	} {
		var budget replay.Budget
		req := request(pieces(c.size, 1<<20))
		req.ContentLength = int64(c.size)
		b := replay.New(req, roomy, &budget)
		first := b.First(req)
		io.CopyN(io.Discard, struct{ io.Reader }{first}, int64(c.size))
		io.Copy(io.Discard, first) // as net/http looks for the end
		want(t, fmt.Sprint(c.size, " bytes: budget"), budget.Used(), int64(c.taken))
		b.Done()
	}
}

func TestARecordingOfKnownLengthTakesAllOfItAtOnce(t *testing.T) {
	for how, read := range map[string]func(io.Reader){
		"Read":    func(r io.Reader) { r.Read(make([]byte, 1)) },
		"WriteTo": func(r io.Reader) { io.Copy(stopped{}, r) },
	} {
		var budget replay.Budget
		req := request(pieces(64*kib, 700))
		req.ContentLength = 64 * kib
		b := replay.New(req, roomy, &budget)
		read(b.First(req))
		want(t, how+": budget", budget.Used(), int64(64*kib))
		b.Done()
	}
}

func TestAnEmptyBodyNeedsNoMemory(t *testing.T) {
	for how, read := range readers {
		req := request(pieces(0, 1))
		b := replay.New(req, replay.Limits{Body: 1, Total: 0}, new(replay.Budget))
		read(b.First(req))
		want(t, how+": Hold", b.Hold(req), true)
		b.Done()
	}
}

// A body of unknown length takes what came of it, at most twice as much.
func TestARecordingTakesWhatCame(t *testing.T) {
	for _, c := range []struct{ size, piece, taken int }{
		{1, 1 << 20, 4 << 10},
		{1 << 10, 1 << 20, 4 << 10},
		{4 << 10, 1 << 20, 4 << 10},
		{20 << 10, 1 << 20, 32 << 10},
		{64 << 10, 1 << 20, 64 << 10},
		{64 << 10, 700, 64 << 10},
		{100 << 10, 1 << 20, 128 << 10},
		{1 << 20, 1 << 20, 1 << 20},
		{1 << 20, 32 << 10, 1 << 20},
	} {
		for how, read := range readers {
			var budget replay.Budget
			req := request(pieces(c.size, c.piece))
			b := replay.New(req, roomy, &budget)
			read(b.First(req))
			want(t, fmt.Sprintf("%s of %d bytes by %d: budget", how, c.size, c.piece), budget.Used(), int64(c.taken))
			b.Done()
		}
	}
}

// A waiting body gives one byte, and its end when it is told to.
type waiting struct {
	begin, end chan struct{}
	given      bool
}

func (w *waiting) Read(p []byte) (int, error) {
	if w.given {
		<-w.end
		return 0, io.EOF
	}
	<-w.begin
	w.given = true
	return copy(p, "x"), nil
}

func (w *waiting) Close() error { return nil }

func TestThousandsOfSmallBodiesFitAtOnce(t *testing.T) {
	const uploads = 8000
	limits := replay.Limits{Body: 4 << 20, Total: 64 << 20} // Auth's own
	synctest.Test(t, func(t *testing.T) {
		var budget replay.Budget
		begin, end := make(chan struct{}), make(chan struct{})
		var fits [uploads]bool
		var all sync.WaitGroup
		for i := range fits {
			all.Go(func() {
				req := request(&waiting{begin: begin, end: end})
				b := replay.New(req, limits, &budget)
				io.Copy(io.Discard, b.First(req))
				fits[i] = b.Hold(req)
				b.Done()
			})
		}
		synctest.Wait() // all wait for their first byte
		close(begin)
		synctest.Wait() // all for their end
		close(end)
		all.Wait()
		for i, fit := range fits {
			if !fit {
				t.Fatalf("upload %d of %d can't be sent again", i, uploads)
			}
		}
		want(t, "budget", budget.Used(), int64(0))
	})
}

// A body's bytes never appear in another request: with the race detector, chunks
// are overwritten as soon as they go back to their pool.
func TestAChunkThatIsReadOrWrittenIsNotRecycled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := strings.Repeat("0123456789abcdef", 64<<10)
		req, _ := text(whole)
		b := replay.New(req, replay.Limits{Body: 2 << 20, Total: 2 << 20}, new(replay.Budget))
		slow := &slowWriter{}
		done := make(chan struct{})
		go func() { io.Copy(slow, b.First(req)); close(done) }()
		time.Sleep(5*time.Millisecond + 1) // a Write is in progress
		b.Hold(req)
		next := mustNext(t, b, req)
		b.Done()
		other, _ := text(strings.Repeat("another body....", 64<<10))
		o := replay.New(other, roomy, new(replay.Budget))
		io.Copy(io.Discard, struct{ io.Reader }{next.Body}) // all chunks but the lent one go back
		io.Copy(io.Discard, o.First(other))                 // and are used again
		<-done
		want(t, "the first attempt wrote the beginning of its body", strings.HasPrefix(whole, slow.String()), true)
		o.Done()
	})
}

// A slowWriter looks at what it writes for 1 ms.
type slowWriter struct{ bytes.Buffer }

func (s *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Buffer.Write(p)
}

// panicking is a body whose first Read panics, and whose others return what is set.
type panicking struct {
	calls, n int
	err      error
}

func (p *panicking) Read([]byte) (int, error) {
	if p.calls++; p.calls == 1 && p.n == 0 {
		panic("Read")
	}
	return p.n, p.err
}

func (p *panicking) Close() error { return nil }

func TestAReadThatPanicsEndsTheBody(t *testing.T) {
	for how, read := range readers {
		req := request(&panicking{})
		b := replay.New(req, roomy, new(replay.Budget))
		func() {
			defer func() { want(t, how+": recovered", recover(), "Read") }()
			read(b.First(req))
		}()
		if _, err := read(b.First(req)); err == nil || !strings.Contains(err.Error(), "panicked") {
			t.Errorf("%s: the next Read got %v, want an error", how, err)
		}
		want(t, how+": Hold", b.Hold(req), false)
		b.Done()
	}
}

func TestAnImpossibleCountOfBytesIsAnError(t *testing.T) {
	for _, n := range []int{-1, 1 << 20} {
		req := request(&panicking{n: n})
		b := replay.New(req, roomy, new(replay.Budget))
		if got, err := b.First(req).Read(make([]byte, 10)); got != 0 || err == nil {
			t.Errorf("a Read that returns %d: got %d and %v, want an error", n, got, err)
		}
		b.Done()
	}
}

// stopped is a writer that wants no more.
type stopped struct{}

func (stopped) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
