package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"
)

// bodies are uploads of one size, by a stream that can be read once and has no
// GetBody: how fast, at the cost of how much memory, and whether one that is
// refused after its last byte is sent again.
func bodies(n int64) scenario {
	times := func(name string) func(map[string]float64, medians) string {
		return func(own map[string]float64, _ medians) string {
			return strings.Replace(fmt.Sprintf("%.2f", own[name]), "-0.00", "0.00", 1)
		}
	}
	return scenario{
		name: "bodies " + unit(n), exclusive: true, body: n,
		measure: func(ctx context.Context, size sizes, p peer) (sample, error) { return measureBody(ctx, size, p, n) },
		lines: []line{
			{title: "throughput, of the base's", timed: true, cell: times("throughput")},
			{title: "allocated, of the body", cell: times("allocated")},
			{title: "live at the peak, of the body", cell: times("live")},
			{title: "first byte at the server after", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f ms", own["first"])
			}},
			{title: "refused once", cell: func(own map[string]float64, _ medians) string {
				return outcomes[int(own["outcome"])]
			}},
		},
	}
}

// outcomes of an upload that was refused.
var outcomes = []string{"sent again, whole", "no: 401", "fails: an error, not the 401", "fails: not whole"}

func unit(n int64) string {
	if n < 1<<20 {
		return fmt.Sprint(n>>10, " KiB")
	}
	return fmt.Sprint(n>>20, " MiB")
}

func measureBody(ctx context.Context, size sizes, p peer, n int64) (sample, error) {
	own, err := newUploader(ctx, p, n)
	if err != nil {
		return sample{}, err
	}
	defer own.world.close()
	of, err := newUploader(ctx, bare, n)
	if err != nil {
		return sample{}, err
	}
	defer of.world.close()
	values := map[string]float64{}
	if err := compare(values, own, of, max(1, int(size.uploads/n/pairs))); err != nil {
		return sample{}, err
	}
	live, err := own.live()
	if err != nil {
		return sample{}, err
	}
	less, err := of.live()
	if err != nil {
		return sample{}, err
	}
	first, err := own.first(size.produce)
	if err != nil {
		return sample{}, err
	}
	values["live"] = (live - less) / float64(n)
	values["first"] = first.Seconds() * 1000
	values["outcome"] = float64(own.refused())
	return sample{values: values}, nil
}

// pairs is how often the base and a peer are measured in turn.
const pairs = 15

// compare uploads in turn by both, so many bodies each time.
func compare(values map[string]float64, own, of *uploader, uploads int) error {
	for _, u := range []*uploader{own, of} { // warms up
		if err := u.batch(uploads); err != nil {
			return err
		}
	}
	var ratios []float64
	var more float64
	for i := range pairs {
		first, second := own, of
		if i%2 == 0 {
			first, second = of, own
		}
		if err := first.batch(uploads); err != nil {
			return err
		}
		if err := second.batch(uploads); err != nil {
			return err
		}
		ratios = append(ratios, of.took.Seconds()/own.took.Seconds())
		more += own.allocated - of.allocated
	}
	values["throughput"] = middle(ratios)
	values["allocated"] = more / float64(pairs*uploads) / float64(own.size)
	return nil
}

// An uploader uploads streams of one size by one peer.
type uploader struct {
	ctx   context.Context
	world *world
	doer  doer
	size  int64

	took      time.Duration // of the last batch
	allocated float64       // by the last batch, in bytes
}

func newUploader(ctx context.Context, p peer, size int64) (*uploader, error) {
	w := newWorld()
	d, err := p.start(ctx, w)
	if err != nil {
		w.close()
		return nil, err
	}
	return &uploader{ctx: ctx, world: w, doer: d, size: size}, nil
}

// upload sends the stream, and returns the status and what arrived.
func (u *uploader) upload(s *stream) (int, arrival, error) {
	req, err := http.NewRequestWithContext(u.ctx, http.MethodPut, u.world.Plain+"/api", s)
	if err != nil {
		return 0, arrival{}, err
	}
	req.ContentLength = u.size
	resp, err := u.doer.Do(req)
	if err != nil {
		return 0, arrival{}, err
	}
	resp.Body.Close()
	return resp.StatusCode, arrivalOf(resp), nil
}

// accepted is an upload that has to succeed.
func (u *uploader) accepted(s *stream) (arrival, error) {
	status, arrival, err := u.upload(s)
	if err == nil && (status != http.StatusOK || !arrival.whole(u.size)) {
		err = fmt.Errorf("upload of %d bytes: status %d, and %d bytes arrived", u.size, status, arrival.length)
	}
	return arrival, err
}

func (u *uploader) batch(uploads int) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range uploads {
		if _, err := u.accepted(&stream{size: u.size}); err != nil {
			return err
		}
	}
	u.took = time.Since(began)
	runtime.ReadMemStats(&after)
	u.allocated = float64(after.TotalAlloc - before.TotalAlloc)
	return nil
}

// live returns how much more is live at the fullest moment of an upload than
// before, in bytes, as far as collections in a row can see.
func (u *uploader) live() (float64, error) {
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	heap() // what a finalizer keeps goes with the second
	before := heap()
	done, peak := make(chan struct{}), make(chan float64)
	go func() {
		most := before
		for {
			most = max(most, heap())
			select {
			case <-done:
				peak <- most
				return
			default:
			}
		}
	}()
	_, err := u.accepted(&stream{size: u.size, pieces: 16, between: func() { time.Sleep(time.Millisecond) }})
	close(done)
	return <-peak - before, err
}

// first returns how long the server waits for the first byte of a body that
// takes some time to produce.
func (u *uploader) first(produce time.Duration) (time.Duration, error) {
	const pieces = 16
	sent := time.Now().UnixNano()
	arrival, err := u.accepted(&stream{size: u.size, pieces: pieces, between: func() { time.Sleep(produce / pieces) }})
	return time.Duration(arrival.first - sent), err
}

// refused returns the outcome of an upload whose token is revoked.
func (u *uploader) refused() int {
	u.world.revoke()
	status, arrival, err := u.upload(&stream{size: u.size})
	switch {
	case err != nil:
		return 2
	case status != http.StatusOK:
		return 1
	case !arrival.whole(u.size):
		return 3
	}
	return 0
}
