package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"time"
)

// hotPath measures what a peer adds to a request with seven headers that is
// accepted, over a base that answers at once. The base is measured in turn with it.
func hotPath(sizes) scenario {
	return scenario{
		name: "hot path", exclusive: true,
		measure: measureHotPath,
		lines: []line{
			{title: "accepted request: time over the base's", timed: true, cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f ns", own["ns"])
			}},
			{title: "… in relation to `x/oauth2`", cell: timeToXOAuth2},
			{title: "… allocations, bytes", cell: func(own map[string]float64, _ medians) string {
				return fmt.Sprintf("%.0f, %.0f", own["allocs"], own["bytes"])
			}},
		},
	}
}

// smallHeap is the hot path where 4 MiB are live: the collector, which runs once for
// every 4 MiB that are allocated, is most of the cost.
func smallHeap(sizes) scenario {
	return scenario{
		name: "hot path, small heap", exclusive: true, ballast: 4 << 20,
		measure: measureHotPath,
		lines: []line{
			{title: "… time from a heap of 4 MiB, in relation to `x/oauth2`", cell: timeToXOAuth2},
		},
	}
}

func timeToXOAuth2(own map[string]float64, all medians) string {
	other := all[xoauth2.name]["ns"]
	if other <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", own["ns"]/other)
}

// accepting is a base that accepts everything at once.
type accepting struct{}

func (accepting) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func measureHotPath(ctx context.Context, size sizes, p peer) (sample, error) {
	w := newSecureWorld()
	defer w.close()
	d, err := p.dial(w)
	if err == nil {
		err = warm(ctx, d, w.Secure+"/api")
	}
	if err != nil {
		return sample{}, err
	}
	if p.name == bare.name {
		d = w.client() // it would add to the request
	}
	req, err := http.NewRequest(http.MethodGet, w.Secure+"/api", nil)
	if err != nil {
		return sample{}, err
	}
	for i := range 7 {
		req.Header.Set(fmt.Sprint("X-Header-", i), "value")
	}
	w.base.RoundTripper = accepting{}
	own, ofBase := send(d, req), send(w.client(), req)
	values := allocated(own, ofBase, size.ops)
	values["ns"] = overhead(own, ofBase, size)
	return sample{values: values}, nil
}

// send returns a function that sends a request.
func send(d doer, req *http.Request) func() {
	return func() {
		resp, err := d.Do(req)
		if err != nil {
			panic(err) // the base does not fail
		}
		resp.Body.Close()
	}
}

// overhead returns the median of how much longer a call of own takes, in nanoseconds.
func overhead(own, ofBase func(), size sizes) float64 {
	batch := func(f func()) float64 {
		began := time.Now()
		for range size.ops {
			f()
		}
		return float64(time.Since(began).Nanoseconds()) / float64(size.ops)
	}
	var more []float64
	for i := range size.batches {
		if i%16 == 0 { // else whoever comes first pays for the pages of a heap that has never been used
			runtime.GC()
		}
		if i%2 == 0 {
			first := batch(ofBase)
			more = append(more, batch(own)-first)
		} else {
			more = append(more, batch(own)-batch(ofBase))
		}
	}
	return middle(more)
}

// allocated returns how much more a call of own allocates.
func allocated(own, ofBase func(), calls int) map[string]float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	count := func(f func()) (allocs, bytes float64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			f()
		}
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / float64(calls), float64(after.TotalAlloc-before.TotalAlloc) / float64(calls)
	}
	allocs, bytes := count(own)
	baseAllocs, baseBytes := count(ofBase)
	return map[string]float64{"allocs": allocs - baseAllocs, "bytes": bytes - baseBytes}
}
