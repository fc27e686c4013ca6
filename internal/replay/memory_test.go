package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	}
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
	for _, size := range []int{1, 4 << 10, 64 << 10, 256 << 10, 1 << 20} {
		var budget replay.Budget
		req := request(pieces(size, 1<<20))
		req.ContentLength = int64(size)
		b := replay.New(req, roomy, &budget)
		first := b.First(req)
		io.CopyN(io.Discard, struct{ io.Reader }{first}, int64(size))
		io.Copy(io.Discard, first) // as net/http looks for the end
		want(t, fmt.Sprint(size, " bytes: budget"), budget.Used(), int64(max(size, 4<<10)))
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

// gated are the bodies whose Close waits for an answer, recorded and with GetBody.
func gated(ctx context.Context, size int) map[string]io.ReadCloser {
	recorded := request(pieces(size, 100)).WithContext(ctx)
	again := request(pieces(size, 100)).WithContext(ctx)
	again.ContentLength = int64(size)
	again.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("unused") }
	return map[string]io.ReadCloser{
		"recorded": replay.New(recorded, roomy, new(replay.Budget)).First(recorded),
		"GetBody":  new(replay.Gated).Of(again, again.Body),
	}
}

func TestCloseBeforeTheEndWaitsForTheAnswer(t *testing.T) {
	for how, c := range map[string]struct {
		read     int64 // before Close
		answered time.Duration
		patience time.Duration // of the request's context
		want     time.Duration
	}{
		"answered at once":   {100, 0, time.Hour, 0},
		"answered in time":   {100, 10 * time.Millisecond, time.Hour, 10 * time.Millisecond},
		"never answered":     {100, time.Hour, time.Hour, 100 * time.Millisecond},
		"context ends":       {100, time.Hour, 20 * time.Millisecond, 20 * time.Millisecond},
		"nothing was read":   {0, time.Hour, time.Hour, 0},
		"read to the end":    {replay.Small + 1, time.Hour, time.Hour, 0},
		"read, and then EOF": {replay.Small + 2, time.Hour, time.Hour, 0},
	} {
		for _, kind := range []string{"recorded", "GetBody"} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				body := gated(ctx, replay.Small+1)[kind]
				n, err := io.CopyN(io.Discard, struct{ io.Reader }{body}, c.read)
				if c.read > replay.Small && err == nil {
					body.Read(make([]byte, 1)) // the end itself
				}
				time.AfterFunc(c.answered, body.(interface{ Answered() }).Answered)
				synctest.Wait()
				began := time.Now()
				body.Close()
				if took := time.Since(began); took != c.want {
					t.Errorf("%s, %s: Close after %d bytes took %v, want %v", how, kind, n, took, c.want)
				}
				time.Sleep(2 * time.Hour)
			})
		}
	}
}

func TestSmallBodiesAndThoseThatAreGatedAlreadyStayWhatTheyAre(t *testing.T) {
	large := request(pieces(1, 1))
	large.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	small := *large
	small.ContentLength = replay.Small
	for name, req := range map[string]*http.Request{"no body": request(http.NoBody), "small": &small} {
		want(t, name, new(replay.Gated).Of(req, req.Body), req.Body)
	}
	gate := new(replay.Gated).Of(large, large.Body)
	want(t, "large", gate == large.Body, false)
	want(t, "gated", new(replay.Gated).Of(large, gate), gate)
}

// emptyFirst is a body whose first Read returns nothing.
type emptyFirst struct {
	io.Reader
	begun bool
}

func (e *emptyFirst) Read(p []byte) (int, error) {
	if !e.begun {
		e.begun = true
		return 0, nil
	}
	return e.Reader.Read(p)
}

// Between the attempt of one owner and the next, the recording is nobody's.
func TestAnOwnerBelowRecordsABodyOfWhichNothingWasReadYet(t *testing.T) {
	const whole = "0123456789"
	req := request(io.NopCloser(&emptyFirst{Reader: strings.NewReader(whole)}))
	b := replay.New(req, roomy, new(replay.Budget))
	first := b.First(req)
	io.Copy(stopped{}, first)
	b.Hold(req)
	second := mustNext(t, b, req)
	first.Close()
	inner, below := nested(second.Body)
	io.CopyN(io.Discard, inner.First(below), 4)
	want(t, "Hold", inner.Hold(below), true)
	got, err := io.ReadAll(mustNext(t, inner, below).Body)
	want(t, "third attempt", fmt.Sprint(string(got), err), whole+"<nil>")
	inner.Done()
	b.Done()
}

// stopped is a writer that wants no more.
type stopped struct{}

func (stopped) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
