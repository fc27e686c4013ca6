package replay_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

var roomy = replay.Limits{Body: 1 << 20, Total: 1 << 20}

// A source is a body whose Close is counted. Its Read takes each piece from a channel: made
// in a synctest bubble, waiting for it is durable.
type source struct {
	pieces chan string
	rest   string
	gone   chan struct{}
	closes int
}

func newSource() *source {
	return &source{pieces: make(chan string), gone: make(chan struct{})}
}

func (s *source) Read(p []byte) (int, error) {
	if s.rest == "" {
		select {
		case piece, ok := <-s.pieces:
			if !ok {
				return 0, io.EOF
			}
			s.rest = piece
		case <-s.gone:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *source) Close() error {
	if s.closes++; s.closes == 1 {
		close(s.gone)
	}
	return nil
}

func request(body io.ReadCloser) *http.Request {
	return &http.Request{Method: "POST", Body: body}
}

// text is a request whose body is at hand, and says how often it was closed.
func text(s string) (*http.Request, *int) {
	body := &countedText{Reader: strings.NewReader(s)}
	return request(body), &body.closes
}

type countedText struct {
	io.Reader
	closes int
}

func (c *countedText) Close() error { c.closes++; return nil }

// readAsync reads once, in a goroutine of its own.
func readAsync(r io.Reader) <-chan string {
	got := make(chan string, 1)
	go func() {
		p := make([]byte, 100)
		n, err := r.Read(p)
		if err != nil {
			got <- string(p[:n]) + "!" + err.Error()
			return
		}
		got <- string(p[:n])
	}()
	return got
}

// now returns what has come, or "(waits)".
func now(c <-chan string) string {
	synctest.Wait()
	select {
	case s := <-c:
		return s
	default:
		return "(waits)"
	}
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func mustNext(t *testing.T, b *replay.Body, req *http.Request) replay.Next {
	t.Helper()
	next, err := b.Next(req)
	if err != nil {
		t.Fatalf("Next: got %v, want no error", err)
	}
	return next
}

func TestSecondAttemptReadsAllOfABodyThatTheFirstHasReadInPart(t *testing.T) {
	for _, part := range []int64{0, 1, 4095, 4096, 4097, 100_000, 1 << 20} {
		whole := strings.Repeat("0123456789abcdef", 1<<16)
		req, closes := text(whole)
		var budget replay.Budget
		b := replay.New(req, roomy, &budget)
		io.CopyN(io.Discard, b.First(req), part)
		want(t, "Hold", b.Hold(req), true)
		next := mustNext(t, b, req)
		got, err := io.ReadAll(next.Body)
		if err != nil || string(got) != whole {
			t.Errorf("after %d bytes: got %d bytes and %v, want the %d of the body", part, len(got), err, len(whole))
		}
		next.Body.Close()
		b.Done()
		want(t, "closes", *closes, 1)
		want(t, "budget", budget.Used(), int64(0))
	}
}

func TestFirstAttemptWaitsUntilItIsDecided(t *testing.T) {
	for _, c := range []struct {
		name   string
		decide func(*replay.Body, *http.Request)
		want   string
	}{
		{"released", func(b *replay.Body, _ *http.Request) { b.Release() }, "rest"},
		{"replaced", func(b *replay.Body, req *http.Request) { b.Next(req) }, "!" + replay.ErrCut.Error()},
		{"given up", func(b *replay.Body, _ *http.Request) { b.Close() }, "!" + replay.ErrCut.Error()},
	} {
		synctest.Test(t, func(t *testing.T) {
			req, _ := text("rest")
			b := replay.New(req, roomy, new(replay.Budget))
			want(t, "Hold", b.Hold(req), true)
			got := readAsync(b.First(req))
			want(t, c.name+": Read before", now(got), "(waits)")
			c.decide(b, req)
			want(t, c.name+": Read after", now(got), c.want)
		})
	}
}

func TestReadInProgressAtTheCutBelongsToTheSecondAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		b := replay.New(req, replay.Limits{Body: 3, Total: 3}, new(replay.Budget))
		first := readAsync(b.First(req))
		want(t, "first Read", now(first), "(waits)")
		b.Hold(req)
		next := mustNext(t, b, req)
		want(t, "Reading", next.Reading, true)
		second := readAsync(next.Body)
		want(t, "second Read", now(second), "(waits)")
		src.pieces <- "more than the bound"
		want(t, "first Read at the end", now(first), "!"+replay.ErrCut.Error())
		want(t, "second Reads at the end", now(second)+now(readAsync(next.Body)), "more than the bound")
		close(src.pieces)
		want(t, "second Read at EOF", now(readAsync(next.Body)), "!EOF")
	})
}

func TestAnAttemptThatWasCutOffDoesNotWaitForTheSecondsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		b := replay.New(req, roomy, new(replay.Budget))
		b.Hold(req)
		second := readAsync(mustNext(t, b, req).Body)
		want(t, "second Read", now(second), "(waits)")
		want(t, "first Read", now(readAsync(b.First(req))), "!"+replay.ErrCut.Error())
		b.Close()
	})
}

func TestTheSecondAttemptReadsWhatWasKeptThoughAReadIsInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		b := replay.New(req, roomy, new(replay.Budget))
		got := readAsync(b.First(req))
		src.pieces <- "kept"
		want(t, "first Read", now(got), "kept")
		readAsync(b.First(req))
		synctest.Wait()
		b.Hold(req)
		want(t, "second attempt's Read", now(readAsync(mustNext(t, b, req).Body)), "kept")
		b.Close()
	})
}

// A source's Close may wait for its Read.
func TestNobodyWaitsForTheCallersClose(t *testing.T) {
	for name, decide := range map[string]func(*replay.Body){"Release": (*replay.Body).Release, "Close": (*replay.Body).Close} {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			req := request(gatedClose{strings.NewReader("x"), gate})
			b := replay.New(req, roomy, new(replay.Budget))
			b.First(req).Close()
			began := time.Now()
			time.AfterFunc(time.Second, func() { close(gate) })
			decide(b)
			want(t, name+": waited", time.Since(began), time.Duration(0))
			<-gate
		})
	}
}

type gatedClose struct {
	io.Reader
	gate chan struct{}
}

func (g gatedClose) Close() error { <-g.gate; return nil }

func TestWhatIsReadWhileHeldIsKeptBeyondTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		b := replay.New(req, replay.Limits{Body: 3, Total: 3}, new(replay.Budget))
		first := readAsync(b.First(req))
		synctest.Wait()
		want(t, "Hold", b.Hold(req), true)
		src.pieces <- "more than the bound"
		want(t, "first Read", now(first), "more than the bound")
		next := mustNext(t, b, req)
		want(t, "second Reads", now(readAsync(next.Body))+now(readAsync(next.Body)), "more than the bound")
	})
}

func TestSecondAttemptsCloseWakesItsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		b := replay.New(req, roomy, new(replay.Budget))
		first := readAsync(b.First(req))
		synctest.Wait()
		b.Hold(req)
		next := mustNext(t, b, req)
		second := readAsync(next.Body)
		want(t, "second Read", now(second), "(waits)")
		next.Body.Close()
		want(t, "second Read after Close", now(second), "!tokentripper: read of a closed request body")
		want(t, "first Read", now(first), "!"+replay.ErrCut.Error())
		want(t, "closes", src.closes, 1)
	})
}

func TestCloseWakesAnAttemptThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, _ := text("0123456789")
		b := replay.New(req, roomy, new(replay.Budget))
		b.Hold(req)
		got := readAsync(b.First(req))
		want(t, "Read while held", now(got), "(waits)")
		b.First(req).Close() // as net/http does with HTTP/2
		want(t, "Read after Close", now(got), "!tokentripper: read of a closed request body")
		second, err := io.ReadAll(mustNext(t, b, req).Body)
		want(t, "second attempt", string(second), "0123456789")
		want(t, "error", err, error(nil))
	})
}

func TestTrailersReachTheSecondAttemptWhenTheBodyEnds(t *testing.T) {
	req, _ := text("0123456789")
	req.Trailer = http.Header{"X-Sum": nil}
	b := replay.New(req, roomy, new(replay.Budget))
	io.CopyN(io.Discard, b.First(req), 5)
	b.Hold(req)
	next := mustNext(t, b, req)
	req.Trailer.Set("X-Sum", "sum")
	want(t, "names", len(next.Trailer), 1)
	io.CopyN(io.Discard, next.Body, 6) // one more than was kept
	want(t, "before the end", next.Trailer.Get("X-Sum"), "")
	io.ReadAll(next.Body)
	want(t, "at the end", next.Trailer.Get("X-Sum"), "sum")
}

func TestTheFirstAttemptHasTheCallersTrailers(t *testing.T) {
	req, _ := text("0123456789")
	req.Trailer = http.Header{"X-Sum": {"sum"}}
	b := replay.New(req, roomy, new(replay.Budget))
	got, err := io.ReadAll(b.First(req))
	want(t, "body", string(got), "0123456789")
	want(t, "its end", err, nil)
	want(t, "trailer", req.Trailer.Get("X-Sum"), "sum")
}

func TestBodyPastABoundGoesOnAndCannotBeSentAgain(t *testing.T) {
	for _, limits := range []replay.Limits{{Body: 9, Total: 100}, {Body: 100, Total: 9}} {
		req, closes := text("0123456789")
		var budget replay.Budget
		b := replay.New(req, limits, &budget)
		first := b.First(req)
		got, err := io.ReadAll(first)
		if err != nil || string(got) != "0123456789" {
			t.Errorf("%+v: got %q and %v, want the body", limits, got, err)
		}
		want(t, "budget", budget.Used(), int64(0))
		want(t, "Hold", b.Hold(req), false)
		first.Close()
		want(t, "closes at the end of the body", *closes, 1)
		b.Release()
		want(t, "closes", *closes, 1)
	}
}

func TestBodyOfExactlyTheBoundCanBeSentAgain(t *testing.T) {
	req, _ := text("0123456789")
	b := replay.New(req, replay.Limits{Body: 10, Total: 10}, new(replay.Budget))
	io.ReadAll(b.First(req))
	want(t, "Hold", b.Hold(req), true)
	got, _ := io.ReadAll(mustNext(t, b, req).Body)
	want(t, "second attempt", string(got), "0123456789")
}

func TestRecordingsShareTheBudgetToItsLastByte(t *testing.T) {
	var budget replay.Budget
	limits := replay.Limits{Body: 1 << 20, Total: 300_000}
	whole := strings.Repeat("x", 200_000)
	for _, c := range []struct {
		size int
		hold bool
	}{{200_000, true}, {100_000, false}, {37_856, true}, {1, false}} { // the first takes 256 KiB of chunks
		req, _ := text(whole[:c.size])
		b := replay.New(req, limits, &budget)
		io.ReadAll(b.First(req))
		want(t, "Hold", b.Hold(req), c.hold)
	}
	want(t, "budget", budget.Used(), limits.Total)
}

func TestManyRecordingsAtOnceGiveBackWhatTheyTook(t *testing.T) {
	var budget replay.Budget
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				req, _ := text("0123456789")
				b := replay.New(req, roomy, &budget)
				io.ReadAll(b.First(req))
				b.Done()
			}
		})
	}
	all.Wait()
	want(t, "budget", budget.Used(), int64(0))
}

func TestNothingMoreIsKeptOfTheLastAttempt(t *testing.T) {
	req, _ := text(strings.Repeat("x", 100_000))
	var budget replay.Budget
	b := replay.New(req, roomy, &budget)
	io.CopyN(io.Discard, b.First(req), 5)
	b.Hold(req)
	next := mustNext(t, b, req)
	want(t, "budget before", budget.Used(), int64(4<<10))
	io.ReadAll(next.Body)
	want(t, "budget after", budget.Used(), int64(0))
}

func TestARecordingIsFreedWhenItIsNeededNoMore(t *testing.T) {
	const size = 8 << 20
	for name, decide := range map[string]func(*replay.Body, *http.Request){
		"released":                func(b *replay.Body, _ *http.Request) { b.Release() },
		"released during a Read":  func(b *replay.Body, req *http.Request) { readAsync(b.First(req)); synctest.Wait(); b.Release() },
		"given up":                func(b *replay.Body, _ *http.Request) { b.Close() },
		"released after a resend": func(b *replay.Body, req *http.Request) { resend(b.First(req), size); b.Release() },
	} {
		synctest.Test(t, func(t *testing.T) {
			src := newSource()
			req := request(src)
			before := heap()
			b := replay.New(req, replay.Limits{Body: 2 * size, Total: 2 * size}, new(replay.Budget))
			go func() { src.pieces <- strings.Repeat("x", size) }()
			io.CopyN(io.Discard, b.First(req), size)
			src.rest = ""
			want(t, name+": kept before", heap()-before > size/2, true)
			decide(b, req)
			want(t, name+": kept after", heap()-before > size/2, false)
			b.Close()
		})
	}
}

// resend sends an attempt again, n bytes of it, as an owner below.
func resend(first io.ReadCloser, n int64) {
	inner, req := nested(first)
	inner.Hold(req)
	next, _ := inner.Next(req)
	io.CopyN(io.Discard, next.Body, n)
	inner.Done()
}

// heap returns how many bytes are in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the second empties pools
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestABodyIsNotReadBeyondItsEnd(t *testing.T) {
	req := request(io.NopCloser(&onlyOnce{Reader: strings.NewReader("0123456789")}))
	b := replay.New(req, roomy, new(replay.Budget))
	io.ReadAll(b.First(req))
	b.Hold(req)
	got, err := io.ReadAll(mustNext(t, b, req).Body)
	want(t, "second attempt", string(got), "0123456789")
	want(t, "its end", err, nil)
}

// Over HTTP/2 the end then needs no frame of its own.
func TestReadReturnsTheEndWithTheLastBytes(t *testing.T) {
	req := request(io.NopCloser(iotest.DataErrReader(strings.NewReader("0123456789"))))
	b := replay.New(req, roomy, new(replay.Budget))
	n, err := b.First(req).Read(make([]byte, 20))
	want(t, "bytes", n, 10)
	want(t, "error", err, io.EOF)
}

// onlyOnce ends once; then it fails, as a server's body does that was closed.
type onlyOnce struct {
	io.Reader
	ended bool
}

func (o *onlyOnce) Read(p []byte) (int, error) {
	if o.ended {
		return 0, errors.New("read beyond the end")
	}
	n, err := o.Reader.Read(p)
	o.ended = err == io.EOF
	return n, err
}

func TestBodyThatFailedCannotBeSentAgain(t *testing.T) {
	broken := errors.New("broken")
	req := request(io.NopCloser(io.MultiReader(strings.NewReader("x"), errReader{broken})))
	b := replay.New(req, roomy, new(replay.Budget))
	_, err := io.ReadAll(b.First(req))
	want(t, "first attempt's error", err, broken)
	want(t, "Hold", b.Hold(req), false)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCutAttemptReadsEOFOnlyWhenItHasAllOfTheContentLength(t *testing.T) {
	for read, wantErr := range map[int64]error{9: replay.ErrCut, 10: io.EOF} {
		req, _ := text("0123456789")
		req.ContentLength = 10
		b := replay.New(req, roomy, new(replay.Budget))
		first := b.First(req)
		io.CopyN(io.Discard, first, read)
		b.Hold(req)
		next := mustNext(t, b, req)
		_, err := first.Read(make([]byte, 1))
		want(t, "cut attempt's Read", err, wantErr)
		want(t, "Sent", next.Sent, read == 10)
	}
}

func TestAnAttemptThatHasReadTheEndHasSentAll(t *testing.T) {
	req, _ := text("0123456789")
	b := replay.New(req, roomy, new(replay.Budget))
	first := b.First(req)
	io.ReadAll(first)
	b.Hold(req)
	want(t, "Sent", mustNext(t, b, req).Sent, true)
	_, err := first.Read(make([]byte, 1))
	want(t, "cut attempt's Read", err, io.EOF)
}

// With either of these net/http sends no Content-Length, so what the request
// declares does not tell whether a server has it all.
func TestAContentLengthThatIsNotSentDoesNotTellTheEnd(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"chunked":  func(req *http.Request) { req.TransferEncoding = []string{"chunked"} },
		"trailers": func(req *http.Request) { req.Trailer = http.Header{"X-Sum": nil} },
	} {
		req, _ := text("0123456789")
		req.ContentLength = 10
		change(req)
		b := replay.New(req, roomy, new(replay.Budget))
		first := b.First(req)
		io.CopyN(io.Discard, first, 10)
		b.Hold(req)
		next := mustNext(t, b, req)
		_, err := first.Read(make([]byte, 1))
		want(t, name+": cut attempt's Read", err, replay.ErrCut)
		want(t, name+": Sent", next.Sent, false)
	}
}

func TestTheBudgetComesBackWhenNoOtherAttemptIsPossible(t *testing.T) {
	for name, decide := range map[string]func(*replay.Body){"Release": (*replay.Body).Release, "Close": (*replay.Body).Close} {
		req, _ := text("0123456789")
		var budget replay.Budget
		b := replay.New(req, roomy, &budget)
		io.CopyN(io.Discard, b.First(req), 5)
		want(t, name+": before", budget.Used() > 0, true)
		decide(b)
		want(t, name+": after", budget.Used(), int64(0))
	}
}

func TestTheLastAttemptsCloseTellsTheBodysError(t *testing.T) {
	broken := errors.New("broken")
	req := request(failingClose{strings.NewReader("x"), broken})
	b := replay.New(req, roomy, new(replay.Budget))
	b.Release()
	again := *req
	again.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	for name, body := range map[string]io.Closer{"recorded": b.First(req), "GetBody": new(replay.Gated).Of(&again, req.Body)} {
		want(t, name+": error", body.Close(), broken)
		want(t, name+": of the second Close", body.Close(), nil)
	}
}

func TestWhatIsReadAfterTheBodyWasGivenUpIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &waiting{begin: make(chan struct{}), end: make(chan struct{})}
		req := request(src)
		var budget replay.Budget
		b := replay.New(req, roomy, &budget)
		first := readAsync(b.First(req))
		synctest.Wait()
		b.Close()
		close(src.begin)
		want(t, "Read", now(first), "!"+replay.ErrCut.Error())
		want(t, "budget", budget.Used(), int64(0))
	})
}

type failingClose struct {
	io.Reader
	err error
}

func (f failingClose) Close() error { return f.err }

func TestDoneLetsAnAttemptGoOnOfWhichNothingWasDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, closes := text("0123456789")
		b := replay.New(req, roomy, new(replay.Budget))
		b.Hold(req)
		got := readAsync(b.First(req))
		want(t, "held", now(got), "(waits)")
		b.Done() // as after a panic of the source of tokens
		want(t, "after Done", now(got), "0123456789")
		b.First(req).Close()
		want(t, "closes", *closes, 1)
	})
}

func TestRecordingAfterDoneTakesNoMoreOfTheBudget(t *testing.T) {
	req, _ := text("0123456789")
	var budget replay.Budget
	b := replay.New(req, roomy, &budget)
	b.Done() // as after a panic of the base
	io.ReadAll(b.First(req))
	want(t, "budget", budget.Used(), int64(0))
}

func TestBodiesThatNeedNoRecordingAreNotTouched(t *testing.T) {
	getBody := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("again")), nil }
	stream, again := io.NopCloser(&bytes.Buffer{}), io.NopCloser(strings.NewReader("again"))
	for name, c := range map[string]struct {
		req    *http.Request
		limits replay.Limits
		hold   bool
	}{
		"nil":      {request(nil), roomy, true},
		"NoBody":   {request(http.NoBody), roomy, true},
		"GetBody":  {&http.Request{Body: again, GetBody: getBody}, roomy, true},
		"no bound": {request(stream), replay.Limits{Body: -1}, false},
		"zero":     {request(stream), replay.Limits{}, false},
	} {
		b := replay.New(c.req, c.limits, new(replay.Budget))
		want(t, name+": first body is the caller's", b.First(c.req) == c.req.Body, true)
		want(t, name+": Hold", b.Hold(c.req), c.hold)
		b.Release()
		b.Close()
		b.Done()
	}
}

func TestASecondBodyFromGetBodyGoesWithTheCallersTrailer(t *testing.T) {
	again := io.NopCloser(strings.NewReader("again"))
	req := &http.Request{Trailer: http.Header{"X-Sum": nil}}
	req.GetBody = func() (io.ReadCloser, error) { return again, nil }
	for name, c := range map[string]struct{ first, second io.ReadCloser }{
		"none":    {nil, nil},
		"NoBody":  {http.NoBody, http.NoBody},
		"GetBody": {io.NopCloser(strings.NewReader("first")), again},
	} {
		req.Body = c.first
		var b *replay.Body
		next := mustNext(t, b, req)
		want(t, name, next.Body, c.second)
		want(t, name+": Sent", next.Sent, true)
		_, ok := next.Trailer["X-Sum"]
		want(t, name+": Trailer", ok, true)
	}
}

func TestNextTellsWhenGetBodyFails(t *testing.T) {
	broken := errors.New("broken")
	req := request(io.NopCloser(strings.NewReader("first")))
	req.GetBody = func() (io.ReadCloser, error) { return nil, broken }
	var b *replay.Body
	next, err := b.Next(req)
	want(t, "error", err, broken)
	want(t, "Sent", next.Sent, false)
}

func TestSmallIsABodyThatAServerHasProbablyRead(t *testing.T) {
	for read, small := range map[int64]bool{0: true, replay.Small: true, replay.Small + 1: false} {
		req := request(pieces(20_000, 20_000))
		b := replay.New(req, roomy, new(replay.Budget))
		io.CopyN(io.Discard, b.First(req), read)
		b.Hold(req)
		want(t, fmt.Sprint("after ", read, " bytes"), mustNext(t, b, req).Small, small)
	}
	body := pieces(1, 1)
	for _, c := range []struct {
		body   io.ReadCloser
		length int64
		small  bool
	}{
		{nil, 0, true}, {http.NoBody, 0, true}, {body, -1, false}, {body, 0, false},
		{body, 1, true}, {body, replay.Small, true}, {body, replay.Small + 1, false},
	} {
		req := &http.Request{Body: c.body, ContentLength: c.length}
		req.GetBody = func() (io.ReadCloser, error) { return c.body, nil }
		var b *replay.Body
		want(t, fmt.Sprintf("Content-Length %d of %T", c.length, c.body), mustNext(t, b, req).Small, c.small)
	}
}

// nested is how an owner sees an attempt of another.
func nested(r io.ReadCloser) (*replay.Body, *http.Request) {
	req := request(r)
	var unused replay.Budget
	return replay.New(req, replay.Limits{}, &unused), req
}

func TestAnOwnerBelowAnotherGoesOnWithItsRecording(t *testing.T) {
	req, closes := text("0123456789")
	var budget replay.Budget
	outer := replay.New(req, roomy, &budget)
	inner, innerReq := nested(outer.First(req))
	first := inner.First(innerReq)
	want(t, "the attempt", first, outer.First(req))
	io.CopyN(io.Discard, first, 3)
	want(t, "inner Hold", inner.Hold(innerReq), true)
	second := mustNext(t, inner, innerReq).Body
	inner.Done()
	got := make([]byte, 5)
	io.ReadFull(second, got)
	want(t, "inner second attempt", string(got), "01234")
	second.Close()
	want(t, "closed by the inner owner", *closes, 0)
	want(t, "outer Hold", outer.Hold(req), true)
	third := mustNext(t, outer, req).Body
	all, err := io.ReadAll(third)
	want(t, "outer attempt", string(all), "0123456789")
	want(t, "its end", err, nil)
	third.Close()
	want(t, "closed", *closes, 1)
	_, err = second.Read(got)
	want(t, "the one before", err.Error(), "tokentripper: read of a closed request body")
	outer.Done()
	want(t, "budget", budget.Used(), int64(0))
}

func TestAnOwnerBelowAnotherDecidesNothingForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, closes := text("0123456789")
		var budget replay.Budget
		outer := replay.New(req, roomy, &budget)
		inner, innerReq := nested(outer.First(req))
		first := inner.First(innerReq)
		inner.Hold(innerReq)
		waits := readAsync(first)
		want(t, "held", now(waits), "(waits)")
		inner.Release()
		want(t, "released", now(waits), "0123456789")
		first.Close()
		inner.Done()
		want(t, "closed by the inner owner", *closes, 0)
		want(t, "outer Hold", outer.Hold(req), true)
		whole, _ := io.ReadAll(mustNext(t, outer, req).Body)
		want(t, "outer attempt", string(whole), "0123456789")
	})
}

func TestAnOwnerBelowAnotherLeavesTheBudgetToIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, closes := text(strings.Repeat("x", 9000))
		var budget replay.Budget
		outer := replay.New(req, roomy, &budget)
		inner, innerReq := nested(outer.First(req))
		first := inner.First(innerReq)
		io.CopyN(io.Discard, first, 3000)
		first.Close()
		inner.Release()
		inner.Release() // counts once
		inner.Done()
		synctest.Wait()
		want(t, "closes", *closes, 0)
		want(t, "something is taken", budget.Used() > 0, true)
		want(t, "outer Hold", outer.Hold(req), true)
		all, _ := io.ReadAll(mustNext(t, outer, req).Body)
		want(t, "outer attempt", len(all), 9000)
	})
}

// A base may return while what is below it goes on.
func TestAnOwnerBelowAnotherMayEndAfterIt(t *testing.T) {
	for name, c := range map[string]struct {
		decide func(*replay.Body, *http.Request)
		hold   bool
		want   string
	}{
		"released": {func(b *replay.Body, _ *http.Request) { b.Release() }, true, "0123456789"},
		"replaced": {func(b *replay.Body, req *http.Request) { b.Hold(req); b.Next(req) }, false, "!" + replay.ErrCut.Error()},
		"given up": {func(b *replay.Body, _ *http.Request) { b.Close() }, false, "!" + replay.ErrCut.Error()},
	} {
		synctest.Test(t, func(t *testing.T) {
			req, closes := text("0123456789")
			var budget replay.Budget
			outer := replay.New(req, roomy, &budget)
			inner, innerReq := nested(outer.First(req))
			c.decide(outer, req)
			outer.Done()
			want(t, name+": inner Hold", inner.Hold(innerReq), c.hold)
			inner.Release()
			inner.Done()
			want(t, name+": Read", now(readAsync(inner.First(innerReq))), c.want)
			want(t, name+": budget", budget.Used(), int64(0))
			outer.Close()
			synctest.Wait()
			want(t, name+": closes", *closes, 1)
		})
	}
}

func TestAnOwnerBelowAnotherThatIsDoneLaterTakesNoMoreOfTheBudget(t *testing.T) {
	req, _ := text("0123456789")
	var budget replay.Budget
	outer := replay.New(req, roomy, &budget)
	inner, innerReq := nested(outer.First(req))
	outer.Release()
	outer.Done()
	got, err := io.ReadAll(inner.First(innerReq))
	want(t, "the body", string(got), "0123456789")
	want(t, "its end", err, nil)
	want(t, "budget", budget.Used(), int64(0))
}

func TestAnOwnerBelowAnotherThatIsDoneDoesNotEndItsHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		req, _ := text("0123456789")
		outer := replay.New(req, roomy, new(replay.Budget))
		inner, _ := nested(outer.First(req))
		inner.Release()
		outer.Hold(req)
		inner.Done()
		got := readAsync(outer.First(req))
		want(t, "Read while held", now(got), "(waits)")
		outer.Release()
		want(t, "Read after Release", now(got), "0123456789")
	})
}

func TestAnOwnerBelowAnotherThatIsDoneDoesNotEndItsRecording(t *testing.T) {
	req, _ := text(strings.Repeat("x", 9000))
	outer := replay.New(req, roomy, new(replay.Budget))
	inner, _ := nested(outer.First(req))
	inner.Done()
	io.Copy(io.Discard, outer.First(req))
	want(t, "Hold", outer.Hold(req), true)
	outer.Done()
}

// Such an owner, below a base that has begun to read, sees no whole body.
func TestAnOwnerThatComesLateCannotSendAgainWhatIsGone(t *testing.T) {
	const whole = 50_000
	for name, late := range map[string]func(*replay.Body, *http.Request) io.ReadCloser{
		"read when it was released": func(b *replay.Body, req *http.Request) io.ReadCloser {
			b.Release()
			io.CopyN(io.Discard, b.First(req), 5)
			return b.First(req)
		},
		"released when it was read": func(b *replay.Body, req *http.Request) io.ReadCloser {
			io.CopyN(io.Discard, b.First(req), 5)
			b.Release()
			return b.First(req)
		},
		"read by a second attempt": func(b *replay.Body, req *http.Request) io.ReadCloser {
			b.Hold(req)
			next, _ := b.Next(req)
			io.CopyN(io.Discard, next.Body, 5)
			return next.Body
		},
		"kept for a second attempt": func(b *replay.Body, req *http.Request) io.ReadCloser {
			io.CopyN(io.Discard, b.First(req), 40_000)
			b.Hold(req)
			next, _ := b.Next(req)
			io.CopyN(io.Discard, next.Body, 30_000)
			return next.Body
		},
	} {
		req := request(pieces(whole, whole))
		outer := replay.New(req, roomy, new(replay.Budget))
		inner, below := nested(late(outer, req))
		want(t, name+": Hold", inner.Hold(below), false)
		inner.Done()
		outer.Done()
	}
}

func TestAnOwnerBelowAnotherCannotReplayWhatWasDropped(t *testing.T) {
	req, _ := text(strings.Repeat("x", 9000))
	var budget replay.Budget
	outer := replay.New(req, replay.Limits{Body: 4096, Total: 4096}, &budget)
	inner, innerReq := nested(outer.First(req))
	io.CopyN(io.Discard, inner.First(innerReq), 5000)
	want(t, "inner Hold", inner.Hold(innerReq), false)
	inner.Release()
	rest, err := io.ReadAll(inner.First(innerReq))
	want(t, "the rest", len(rest), 4000)
	want(t, "its end", err, nil)
}

func TestEachAttemptHasTrailersOfItsOwn(t *testing.T) {
	req, _ := text("body")
	req.Trailer = http.Header{"X-Sum": nil}
	var budget replay.Budget
	outer := replay.New(req, roomy, &budget)
	inner, innerReq := nested(outer.First(req))
	inner.Hold(innerReq)
	second := mustNext(t, inner, innerReq)
	outer.Hold(req)
	third := mustNext(t, outer, req)
	req.Trailer.Set("X-Sum", "1")
	io.ReadAll(second.Body)
	io.ReadAll(third.Body)
	want(t, "cut off", second.Trailer.Get("X-Sum"), "")
	want(t, "last", third.Trailer.Get("X-Sum"), "1")
}

// The inner owner sends again while a Read of the caller's is in progress, and the
// answer comes before that Read returns.
func TestWhatACutReadReturnsAfterTheLastReleaseIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		req := request(r)
		outer := replay.New(req, roomy, new(replay.Budget))
		inner, innerReq := nested(outer.First(req))
		go io.ReadAll(inner.First(innerReq)) // the first attempt waits for the caller
		synctest.Wait()
		inner.Hold(innerReq)
		next := mustNext(t, inner, innerReq)
		inner.Done()
		outer.Release() // an early answer: the upload goes on
		outer.Done()
		go func() { io.WriteString(w, "one "); io.WriteString(w, "two"); w.Close() }()
		got, err := io.ReadAll(next.Body)
		want(t, "the last attempt", string(got), "one two")
		want(t, "its end", err, nil)
	})
}

func TestWhatACutReadReturnsFollowsWhatWasReadAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		req := request(src)
		outer := replay.New(req, roomy, new(replay.Budget))
		inner, innerReq := nested(outer.First(req))
		got := readAsync(inner.First(innerReq))
		src.pieces <- "one"
		want(t, "first attempt", now(got), "one")
		readAsync(inner.First(innerReq)) // waits for the caller
		synctest.Wait()
		inner.Hold(innerReq)
		next := mustNext(t, inner, innerReq)
		want(t, "second attempt", now(readAsync(next.Body)), "one")
		outer.Release()
		src.pieces <- "two"
		want(t, "then", now(readAsync(next.Body)), "two")
		close(src.pieces)
		want(t, "its end", now(readAsync(next.Body)), "!EOF")
	})
}

func TestAnOwnerWhoseBodyAnotherHasClosedSendsNothing(t *testing.T) {
	req, _ := text("rest")
	outer := replay.New(req, roomy, new(replay.Budget))
	below := request(outer.First(req))
	inner := replay.New(below, roomy, new(replay.Budget))
	want(t, "Hold", inner.Hold(below), true)
	outer.Close()
	if next, err := inner.Next(below); err == nil {
		t.Errorf("got %v, want an error", next)
	}
	inner.Done()
	outer.Done()
}
