//go:build !race

package replay_test

import (
	"io"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// uploads are ways of an upload after which nobody has its chunks.
var uploads = map[string]struct {
	size int
	send func(b *replay.Body, first io.ReadCloser, src io.ReadCloser)
}{
	"read":             {300 * kib, func(_ *replay.Body, first, _ io.ReadCloser) { readers["Read"](first) }},
	"written":          {300 * kib, func(_ *replay.Body, first, _ io.ReadCloser) { io.Copy(io.Discard, first) }},
	"small":            {kib, func(_ *replay.Body, first, _ io.ReadCloser) { io.Copy(io.Discard, first) }},
	"past the bound":   {600 * kib, func(_ *replay.Body, first, _ io.ReadCloser) { io.Copy(io.Discard, first) }},
	"the writer fails": {300 * kib, func(_ *replay.Body, first, _ io.ReadCloser) { io.Copy(stopped{}, first) }},
	"released while it is written": {300 * kib, func(b *replay.Body, first, _ io.ReadCloser) {
		io.Copy(writerFunc(func(p []byte) (int, error) { b.Release(); return len(p), nil }), first)
	}},
	"sent again": {300 * kib, func(b *replay.Body, first, src io.ReadCloser) {
		io.Copy(io.Discard, first)
		next, _ := again(b, src)
		io.Copy(io.Discard, next)
	}},
}

// With the race detector, a sync.Pool forgets at random. It forgets what the
// collector finds, too, and does not share all with other threads.
func TestChunksThatNobodyHasAnyMoreAreUsedAgain(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	limits := replay.Limits{Body: 512 * kib, Total: 512 * kib}
	for name, u := range uploads {
		var budget replay.Budget
		upload := func() {
			req := request(pieces(u.size, 1<<20))
			b := replay.New(req, limits, &budget)
			first := b.First(req)
			first.(interface{ Answered() }).Answered()
			u.send(b, first, req.Body)
			b.Done()
			first.Close()
		}
		upload()
		const times = 100
		before := allocated()
		for range times {
			upload()
		}
		if each := (allocated() - before) / times; each >= 4*kib {
			t.Errorf("%s: an upload allocates %d bytes, want less than the smallest chunk", name, each)
		}
	}
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestARecordingIsOneAllocation(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var budget replay.Budget
	src := &records{}
	req := request(io.NopCloser(src))
	got := testing.AllocsPerRun(100, func() {
		src.read = 0
		b := replay.New(req, roomy, &budget)
		first := b.First(req)
		io.Copy(io.Discard, first)
		first.Close()
		b.Release()
		b.Done()
	})
	want(t, "allocations", got, 1.0)
}
