package replay_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/internal/replay"
)

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

func TestWhatIsReadWhenNoAttemptReadsAnyMoreIsNotKept(t *testing.T) {
	for name, end := range map[string]func(*replay.Body, *http.Request){
		"given up": func(b *replay.Body, _ *http.Request) { b.Close() },
		"the second attempt is closed": func(b *replay.Body, req *http.Request) {
			b.Hold(req)
			mustNext(t, b, req).Body.Close()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			src := &waiting{begin: make(chan struct{}), end: make(chan struct{})}
			req := request(src)
			var budget replay.Budget
			b := replay.New(req, roomy, &budget)
			first := readAsync(b.First(req))
			synctest.Wait()
			end(b, req)
			close(src.begin)
			want(t, name+": Read", now(first), "!"+replay.ErrCut.Error())
			want(t, name+": budget", budget.Used(), int64(0))
		})
	}
}

func TestRecordingAfterDoneTakesNoMoreOfTheBudget(t *testing.T) {
	req, _ := text("0123456789")
	var budget replay.Budget
	b := replay.New(req, roomy, &budget)
	b.Done() // as after a panic of the base
	io.ReadAll(b.First(req))
	want(t, "budget", budget.Used(), int64(0))
}
