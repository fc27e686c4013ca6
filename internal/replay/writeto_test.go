package replay_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// A piped is an attempt, read through its WriteTo.
type piped struct {
	*io.PipeReader
	attempt io.ReadCloser
}

func newPiped(attempt io.ReadCloser) *piped {
	r, w := io.Pipe()
	go func() {
		_, err := attempt.(io.WriterTo).WriteTo(w)
		w.CloseWithError(err)
	}()
	return &piped{r, attempt}
}

func (p *piped) Close() error {
	p.PipeReader.Close()
	return p.attempt.Close()
}

// A writer keeps what is written, and fails once it has so many bytes.
type writer struct {
	bytes.Buffer
	pieces []int
	most   int
}

var errFull = errors.New("full")

func (w *writer) Write(p []byte) (int, error) {
	n, _ := w.Buffer.Write(p[:min(len(p), w.most-w.Len())])
	w.pieces = append(w.pieces, n)
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func writeTo(body io.Reader, most int) (*writer, int64, error) {
	w := &writer{most: most}
	n, err := body.(io.WriterTo).WriteTo(w)
	return w, n, err
}

const kib = 1 << 10

func TestWriteToWritesLargerAndLargerPieces(t *testing.T) {
	for length, pieces := range map[int64][]int{
		-1:        {64 * kib, 64 * kib, 128 * kib, 256 * kib, 88 * kib},
		600 * kib: {256 * kib, 256 * kib, 88 * kib},
	} {
		req, _ := text(strings.Repeat("x", 600*kib))
		req.ContentLength = length
		w, n, err := writeTo(replay.New(req, roomy, new(replay.Budget)).First(req), 1<<20)
		want(t, "error", err, nil)
		want(t, "written", n, int64(600*kib))
		if !slices.Equal(w.pieces, pieces) {
			t.Errorf("Content-Length %d: got pieces %v, want %v", length, w.pieces, pieces)
		}
	}
}

func TestSecondAttemptHasAllOfABodyThatWriteToHasWrittenInPart(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 40*kib)
	for _, part := range []int{0, 1, 4096, 4097, 100_000, len(whole)} {
		req, closes := text(whole)
		var budget replay.Budget
		b := replay.New(req, roomy, &budget)
		_, n, _ := writeTo(b.First(req), part)
		want(t, "written", n, int64(part))
		want(t, "Hold", b.Hold(req), true)
		next := mustNext(t, b, req)
		io.CopyN(io.Discard, struct{ io.Reader }{next.Body}, 10) // the rest follows whatever was Read
		w, _, err := writeTo(next.Body, len(whole))
		want(t, "error", err, nil)
		want(t, "rest of the body", w.String() == whole[10:], true)
		next.Body.Close()
		b.Done()
		want(t, "closes", *closes, 1)
		want(t, "budget", budget.Used(), int64(0))
	}
}

// A sameBuffer is a body that counts in how many places it was read to.
type sameBuffer struct {
	io.Reader
	places map[*byte]int
}

func (s *sameBuffer) Close() error { return nil }

func (s *sameBuffer) Read(p []byte) (int, error) {
	s.places[&p[0]]++
	return s.Reader.Read(p)
}

func TestWriteToPastABoundGoesOnWithOneBuffer(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 40*kib)
	for _, limits := range []replay.Limits{{Body: 12 * kib, Total: 1 << 20}, {Body: 1 << 20, Total: 12 * kib}} {
		src := &sameBuffer{strings.NewReader(whole), map[*byte]int{}}
		req := request(src)
		var budget replay.Budget
		b := replay.New(req, limits, &budget)
		w, _, err := writeTo(b.First(req), len(whole))
		want(t, "error", err, nil)
		want(t, "the body is whole", w.String() == whole, true)
		want(t, "places: a chunk and a buffer", len(src.places), 2)
		want(t, "piece past the bound", w.pieces[1], 32*kib)
		want(t, "budget", budget.Used(), int64(0))
		want(t, "Hold", b.Hold(req), false)
	}
}

func TestWriteToKeepsNothingOnceReleased(t *testing.T) {
	whole := strings.Repeat("0123456789abcdef", 8*kib)
	req, _ := text(whole)
	var budget replay.Budget
	b := replay.New(req, roomy, &budget)
	first := b.First(req)
	writeTo(first, 0) // one piece is lost with its writer
	b.Release()
	w, _, err := writeTo(first, len(whole))
	want(t, "error", err, nil)
	want(t, "the rest", w.String() == whole[64*kib:], true)
	want(t, "budget", budget.Used(), int64(0))
}

func TestLastAttemptIsNotRecorded(t *testing.T) {
	for name, readAll := range map[string]func(io.Reader) (int64, error){
		"Read":    func(r io.Reader) (int64, error) { return io.Copy(io.Discard, struct{ io.Reader }{r}) },
		"WriteTo": func(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) },
	} {
		req, _ := text(strings.Repeat("x", 600*kib))
		var budget replay.Budget
		b := replay.New(req, roomy, &budget)
		io.CopyN(io.Discard, b.First(req), 4*kib)
		b.Hold(req)
		n, err := readAll(mustNext(t, b, req).Body)
		want(t, name+": error", err, nil)
		want(t, name+": bytes", n, int64(600*kib))
		want(t, name+": budget", budget.Used(), int64(0))
	}
}

func TestReadOfWriteToInProgressAtTheCutBelongsToTheSecondAttempt(t *testing.T) {
	for _, bound := range []int64{3, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			src := newSource()
			req := request(src)
			b := replay.New(req, replay.Limits{Body: bound, Total: bound}, new(replay.Budget))
			first := newPiped(b.First(req))
			src.pieces <- "abc"
			want(t, "first Read", now(readAsync(first)), "abc")
			b.Hold(req)
			next := mustNext(t, b, req)
			want(t, "Reading", next.Reading, true)
			second := newPiped(next.Body)
			want(t, "second attempt", now(readAsync(second)), "abc")
			rest := readAsync(second)
			want(t, "its next Read", now(rest), "(waits)")
			src.pieces <- "more than the bound"
			want(t, "first attempt at the end", now(readAsync(first)), "!"+replay.ErrCut.Error())
			want(t, "second attempt at the end", now(rest), "more than the bound")
			close(src.pieces)
			want(t, "second attempt at EOF", now(readAsync(second)), "!EOF")
		})
	}
}

func TestWriteToReturnsTheErrorThatTheBodyEndsWith(t *testing.T) {
	broken := errors.New("broken")
	req := request(io.NopCloser(io.MultiReader(strings.NewReader("x"), errReader{broken})))
	w, n, err := writeTo(replay.New(req, roomy, new(replay.Budget)).First(req), 10)
	want(t, "error", err, broken)
	want(t, "before", w.String(), "x")
	want(t, "written", n, int64(1))
}

// A writerFunc is a writer made of a function.
type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

func TestWriteToGoesOnWhenAReadReturnsNothing(t *testing.T) {
	req := request(io.NopCloser(&emptyFirst{Reader: strings.NewReader("rest")}))
	w, _, err := writeTo(replay.New(req, roomy, new(replay.Budget)).First(req), 10)
	want(t, "error", err, nil)
	want(t, "written", w.String(), "rest")
}

func TestWriteToNoticesAShortWrite(t *testing.T) {
	req, _ := text("rest")
	_, err := replay.New(req, roomy, new(replay.Budget)).First(req).(io.WriterTo).WriteTo(
		writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil }))
	want(t, "error", err, io.ErrShortWrite)
}

func TestAWriterThatAppendsDoesNotWriteIntoTheRecording(t *testing.T) {
	req, _ := text(strings.Repeat("a", 10_000))
	b := replay.New(req, roomy, new(replay.Budget))
	b.First(req).(io.WriterTo).WriteTo(writerFunc(func(p []byte) (int, error) {
		if cap(p) > len(p) {
			t.Errorf("a piece of %d bytes has room for %d, want none", len(p), cap(p))
		}
		return len(p), nil
	}))
	b.Done()
}

// records is a body of 100 records of 400 bytes, each of which wants room for 512.
type records struct{ read int }

func (r *records) Read(p []byte) (int, error) {
	switch {
	case r.read == 100:
		return 0, io.EOF
	case len(p) < bytes.MinRead:
		return 0, io.ErrShortBuffer
	}
	r.read++
	return 400, nil
}

func TestAReaderAlwaysHasRoomFor512Bytes(t *testing.T) {
	for _, limits := range []replay.Limits{roomy, {Body: 3000, Total: roomy.Total}, {Body: roomy.Body, Total: 3000}} {
		req := request(io.NopCloser(new(records)))
		b := replay.New(req, limits, new(replay.Budget))
		w, n, err := writeTo(b.First(req), 1<<20)
		want(t, "error", err, nil)
		want(t, "written", n, int64(40_000))
		want(t, "arrived", w.Len(), 40_000)
		b.Done()
	}
}

func TestWriteToReturnsTheWritersError(t *testing.T) {
	req, _ := text("rest")
	full := errors.New("full")
	n, err := replay.New(req, roomy, new(replay.Budget)).First(req).(io.WriterTo).WriteTo(failingWriter{full})
	want(t, "written", n, int64(2))
	want(t, "error", err, full)
}

// The end comes with the last bytes, and those don't arrive.
func TestAnAttemptWhoseLastWriteFailsHasNotSentAll(t *testing.T) {
	req := request(io.NopCloser(iotest.DataErrReader(strings.NewReader("rest"))))
	b := replay.New(req, roomy, new(replay.Budget))
	io.Copy(stopped{}, b.First(req))
	b.Hold(req)
	want(t, "Sent", mustNext(t, b, req).Sent, false)
}

// A roomSource is a body that notes how much its Reads may return.
type roomSource struct {
	io.Reader
	rooms []int
}

func (r *roomSource) Read(p []byte) (int, error) {
	r.rooms = append(r.rooms, len(p))
	return r.Reader.Read(p)
}

func TestTheEndOfABodyOfKnownLengthIsReadWithLittleRoom(t *testing.T) {
	src := &roomSource{Reader: strings.NewReader(long[:4*kib])}
	req := request(io.NopCloser(src))
	req.ContentLength = 4 * kib
	b := replay.New(req, roomy, new(replay.Budget))
	io.Copy(io.Discard, b.First(req))
	want(t, "rooms", fmt.Sprint(src.rooms), "[4096 4096]")
}

// Whoever gets a chunk that went back writes into it. The writer is asked when it has the
// whole body, which is one chunk.
func TestAChunkThatIsWrittenIsNotUsedAgain(t *testing.T) {
	const size = 64 * kib
	for name, c := range map[string]struct {
		bound   int64
		prepare func(b *replay.Body, req *http.Request) io.ReadCloser // the attempt that is written
	}{
		"what is read": {size, func(b *replay.Body, req *http.Request) io.ReadCloser { return b.First(req) }},
		"what was kept": {size, func(b *replay.Body, req *http.Request) io.ReadCloser {
			io.Copy(io.Discard, b.First(req))
			b.Hold(req)
			next, _ := b.Next(req)
			return next.Body
		}},
		"what is written by a first attempt, too": {size, func(b *replay.Body, req *http.Request) (second io.ReadCloser) {
			io.Copy(writerFunc(func(p []byte) (int, error) {
				b.Hold(req)
				next, _ := b.Next(req)
				io.Copy(writerFunc(func(p []byte) (int, error) { next.Body.Close(); return len(p), nil }), next.Body)
				others(size)
				if !bytes.Equal(p, []byte(long[:len(p)])) {
					t.Error("the first attempt's bytes were overwritten by another body")
				}
				return len(p), nil
			}), b.First(req))
			return b.First(req)
		}},
		"what is not kept": {1, func(b *replay.Body, req *http.Request) io.ReadCloser { return b.First(req) }},
	} {
		req := request(pieces(size, size))
		b := replay.New(req, replay.Limits{Body: c.bound, Total: c.bound}, new(replay.Budget))
		body := c.prepare(b, req)
		body.(interface{ Answered() }).Answered()
		io.Copy(writerFunc(func(p []byte) (int, error) {
			body.Close() // as net/http does with HTTP/2
			others(size)
			if !bytes.Equal(p, []byte(long[:len(p)])) {
				t.Errorf("%s: it was overwritten by another body", name)
			}
			return len(p), nil
		}), body)
		b.Done()
	}
}

// others records other bodies of so many bytes.
func others(size int) {
	for range 3 {
		req, _ := text(strings.Repeat("another body....", size/16))
		b := replay.New(req, roomy, new(replay.Budget))
		io.Copy(io.Discard, b.First(req))
		defer b.Done()
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 2, f.err }
