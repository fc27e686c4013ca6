package replay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
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

// A second answer, or a second Close, is none.
func TestCloseWaitsOnceForTheAnswer(t *testing.T) {
	for _, kind := range []string{"recorded", "GetBody"} {
		synctest.Test(t, func(t *testing.T) {
			body := gated(t.Context(), replay.Small+1)[kind]
			body.Read(make([]byte, 1))
			began := time.Now()
			body.Close()
			body.Close()
			want(t, kind+": both Closes took", time.Since(began), 100*time.Millisecond)
			body.(interface{ Answered() }).Answered()
			body.(interface{ Answered() }).Answered()
		})
	}
}

func TestTwoClosesAtOnceWaitForTheSameAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := gated(t.Context(), replay.Small+1)["recorded"]
		body.Read(make([]byte, 1))
		began := time.Now()
		var both sync.WaitGroup
		both.Go(func() { body.Close() })
		both.Go(func() { body.Close() })
		synctest.Wait()
		body.(interface{ Answered() }).Answered()
		both.Wait()
		want(t, "they took", time.Since(began), time.Duration(0))
	})
}

func TestCloseOfARecordedBodyWaitsOnlyIfAnAnswerMayCome(t *testing.T) {
	for name, c := range map[string]struct {
		end  error // of the caller's body, after 10 bytes
		play func(b *replay.Body, req *http.Request) io.Closer
		want time.Duration
	}{
		"the caller's body failed": {errScript, func(b *replay.Body, req *http.Request) io.Closer {
			io.ReadAll(b.First(req))
			return b.First(req)
		}, 0},
		"cut off": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			b.First(req).Read(make([]byte, 1))
			b.Hold(req)
			b.Next(req)
			return b.First(req)
		}, 0},
		"what was kept is not sent whole": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			io.ReadAll(b.First(req))
			b.Hold(req)
			next, _ := b.Next(req)
			next.Body.Read(make([]byte, 1))
			return next.Body
		}, 100 * time.Millisecond},
		"the end was not written": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			io.Copy(stopped{}, b.First(req))
			return b.First(req)
		}, 100 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			end := io.MultiReader(strings.NewReader("0123456789"), errReader{c.end})
			req := request(io.NopCloser(iotest.DataErrReader(end))).WithContext(t.Context())
			b := replay.New(req, roomy, new(replay.Budget))
			body := c.play(b, req)
			began := time.Now()
			body.Close()
			want(t, name+": Close took", time.Since(began), c.want)
		})
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
	small, empty, none := *large, *large, *large
	small.ContentLength, empty.Body, none.Body = replay.Small, http.NoBody, nil
	for name, req := range map[string]*http.Request{"no body": &none, "empty": &empty, "small": &small, "no GetBody": request(large.Body)} {
		want(t, name, new(replay.Gated).Of(req, req.Body), req.Body)
	}
	gate := new(replay.Gated).Of(large, large.Body)
	want(t, "large", gate == large.Body, false)
	want(t, "gated", new(replay.Gated).Of(large, gate), gate)
}

// Over TLS, and with HTTP/2, the system can't send it.
func TestAFileIsGatedWhereTheSystemDoesNotSendIt(t *testing.T) {
	for scheme, gated := range map[string]bool{"http": false, "https": true} {
		file := new(os.File)
		req := &http.Request{URL: &url.URL{Scheme: scheme}, Body: file}
		req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
		got := new(replay.Gated).Of(req, file)
		want(t, scheme+": gated", got != io.ReadCloser(file), gated)
	}
}

func TestCloseDoesNotWaitIfTheBodyGaveNothing(t *testing.T) {
	for _, kind := range []string{"recorded", "GetBody"} {
		synctest.Test(t, func(t *testing.T) {
			body := gated(t.Context(), replay.Small+1)[kind]
			body.Read(nil)
			began := time.Now()
			body.Close()
			want(t, kind+": Close took", time.Since(began), time.Duration(0))
		})
	}
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

func TestAnOwnerBelowRecordsABodyWhoseFirstReadIsInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const whole = "0123456789"
		src := newSource()
		req := request(src)
		req.ContentLength = int64(len(whole))
		b := replay.New(req, roomy, new(replay.Budget))
		first := newPiped(b.First(req))
		synctest.Wait()
		b.Hold(req)
		second := mustNext(t, b, req)
		first.Close() // lets go of the chunk that is read into
		inner, below := nested(second.Body)
		got := readAsync(inner.First(below))
		src.pieces <- whole
		want(t, "second attempt", now(got), whole)
		want(t, "Hold", inner.Hold(below), true)
		want(t, "third attempt", now(readAsync(mustNext(t, inner, below).Body)), whole)
		inner.Done()
		b.Done()
	})
}

// stopped is a writer that wants no more.
type stopped struct{}

func (stopped) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
