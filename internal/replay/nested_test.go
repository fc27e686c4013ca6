package replay_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/internal/replay"
)

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
