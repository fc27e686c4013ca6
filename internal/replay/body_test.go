package replay_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
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
