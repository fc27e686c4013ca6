package replay_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// An own body has one byte again and again, which no other has at that time.
type own struct {
	byte byte
	left int
	end  chan struct{} // closed by the Read that finds the end
}

func (o *own) Read(p []byte) (int, error) {
	if o.left == 0 {
		close(o.end)
		return 0, io.EOF
	}
	n := min(len(p), o.left, 10_000)
	o.left -= n
	for i := range n {
		p[i] = o.byte
	}
	return n, nil
}

func (o *own) Close() error { return nil }

// A looker is a writer that looks at what it is given for a while.
type looker struct {
	byte byte
	err  error
	some chan struct{} // closed when there was something, or the end
	once sync.Once
}

func (l *looker) Write(p []byte) (int, error) {
	l.once.Do(func() { close(l.some) })
	for range 3 {
		if n := bytes.Count(p, []byte{l.byte}); n < len(p) && l.err == nil {
			l.err = fmt.Errorf("a body of %#x has %d other bytes of %d", l.byte, len(p)-n, len(p))
		}
		runtime.Gosched()
	}
	return len(p), nil
}

// late reads an attempt as a base does that goes on after RoundTrip has returned.
func late(all *sync.WaitGroup, body io.ReadCloser, b byte, how int, fail func(error)) *looker {
	l := &looker{byte: b, some: make(chan struct{})}
	all.Go(func() {
		defer body.Close()
		if how%2 == 0 {
			body.(io.WriterTo).WriteTo(l)
		} else {
			io.Copy(l, struct{ io.Reader }{body})
		}
		l.once.Do(func() { close(l.some) })
		if l.err != nil {
			fail(l.err)
		}
	})
	return l
}

// With the race detector, or -tags poisoned, a chunk that goes back is overwritten
// at once, so that whoever still has it sees bytes that are not its body's.
func TestNoBytesOfABodyAppearInAnother(t *testing.T) {
	const workers, uploads = 8, 60
	var budget replay.Budget
	var all, readers sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 0))
			for range uploads {
				sendOwn(t, &readers, &budget, byte(w+1), random)
			}
		})
	}
	all.Wait()
	readers.Wait()
	want(t, "budget", budget.Used(), int64(0))
}

// sendOwn sends one body, which may be refused and sent again by an owner or by
// the one below it, released, or given up, while its attempts are read.
func sendOwn(t *testing.T, readers *sync.WaitGroup, budget *replay.Budget, mine byte, random *rand.Rand) {
	fail := func(err error) { t.Error(err) }
	req := request(&own{mine, 1 + random.IntN(300_000), make(chan struct{})})
	if random.IntN(3) == 0 {
		req.ContentLength = int64(req.Body.(*own).left)
	}
	b := replay.New(req, replay.Limits{Body: 1 + random.Int64N(400_000), Total: 2 << 20}, budget)
	defer b.Done()
	first := b.First(req)
	var inner *replay.Body
	if random.IntN(3) == 0 {
		below := *req
		below.Body = first
		inner = replay.New(&below, replay.Limits{}, nil)
		defer inner.Done()
	}
	<-late(readers, first, mine, random.IntN(2), fail).some
	if random.IntN(2) == 0 {
		<-req.Body.(*own).end
	}
	for _, owner := range []*replay.Body{inner, b} {
		if owner == nil {
			continue
		}
		switch random.IntN(4) {
		case 0:
			owner.Release()
		case 1:
			if owner == b {
				b.Close()
			}
		default:
			if !owner.Hold(req) {
				owner.Release()
			} else if next, err := owner.Next(req); err == nil {
				late(readers, next.Body, mine, random.IntN(2), fail)
			}
		}
	}
}

// A burst of uploads of 1 MiB that end in every way there is.
func TestABurstGivesItsMemoryBack(t *testing.T) {
	const uploads, size = 1000, 1 << 20
	limits := replay.Limits{Body: 4 << 20, Total: 64 << 20}
	var budget replay.Budget
	before := settledHeap()
	var read, all sync.WaitGroup
	read.Add(uploads)
	for i := range uploads {
		all.Go(func() {
			limits := limits
			if i%len(endings) == 0 {
				limits.Body = 100_000
			}
			req := request(pieces(size, size))
			b := replay.New(req, limits, &budget)
			first := b.First(req)
			first.(interface{ Answered() }).Answered()
			io.CopyN(io.Discard, first, int64(size-i%2)) // or to the end but for a byte
			read.Done()
			read.Wait()
			endings[i%len(endings)](b, first, req.Body)
			b.Done()
		})
	}
	all.Wait()
	for range 1000 { // a base that forgets a body gives it back by the collector
		if runtime.GC(); budget.Used() == 0 {
			break
		}
		runtime.Gosched()
	}
	want(t, "budget", budget.Used(), int64(0))
	if more := settledHeap() - before; more > 1<<20 {
		t.Errorf("the heap has %d KiB more than before", more>>10)
	}
}

// settledHeap is the heap when pools are empty and cleanups have run.
func settledHeap() int64 {
	for range 3 {
		runtime.GC()
	}
	return int64(heap())
}

// endings are how an upload may go on that a base has read. The first is past its bound.
var endings = []func(b *replay.Body, first io.ReadCloser, src io.ReadCloser){
	func(_ *replay.Body, first, _ io.ReadCloser) { first.Close() },
	func(_ *replay.Body, first, _ io.ReadCloser) { first.Close() },                             // accepted
	func(_ *replay.Body, first, _ io.ReadCloser) { io.Copy(io.Discard, first); first.Close() }, // read on, accepted
	func(b *replay.Body, first, src io.ReadCloser) { // refused and sent again
		if next, ok := again(b, src); ok {
			io.Copy(io.Discard, next)
			next.Close()
		}
		first.Close()
	},
	func(b *replay.Body, first, src io.ReadCloser) { // sent again and answered early
		if next, ok := again(b, src); ok {
			io.CopyN(io.Discard, next, 1000)
			next.(interface{ Answered() }).Answered()
			next.Close()
		}
		first.Close()
	},
	func(b *replay.Body, _, src io.ReadCloser) { again(b, src); b.Close() }, // given up
	func(b *replay.Body, _, src io.ReadCloser) { again(b, src) },            // forgotten, twice
	func(*replay.Body, io.ReadCloser, io.ReadCloser) {},                     // forgotten
}

func again(b *replay.Body, src io.ReadCloser) (io.ReadCloser, bool) {
	req := request(src)
	if !b.Hold(req) {
		return nil, false
	}
	next, err := b.Next(req)
	return next.Body, err == nil
}
