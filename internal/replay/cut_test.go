package replay_test

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/internal/replay"
)

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
