package transport_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// accepts is a base that reads the body through a buffer, as net/http does, and accepts everything.
type accepts struct {
	resp   http.Response
	buffer []byte
}

func (a *accepts) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		for {
			if _, err := req.Body.Read(a.buffer); err != nil {
				break
			}
		}
		req.Body.Close()
	}
	return &a.resp, nil
}

func newAccepts() *accepts {
	return &accepts{resp: http.Response{StatusCode: 200, Body: http.NoBody}, buffer: make([]byte, 32*kib)}
}

// again is a body that can be read any number of times.
type again struct {
	text string
	*strings.Reader
}

func (a *again) Close() error { a.Reader.Reset(a.text); return nil }

func newAgain(n int) *again {
	return &again{strings.Repeat("x", n), strings.NewReader(strings.Repeat("x", n))}
}

// overheads are requests with seven headers, as many allocations and bytes as Auth may add to them.
func overheads(t testing.TB) []overhead {
	kinds := []overhead{{name: "GET", allocs: 3, bytes: 740}, {name: "POST with GetBody", allocs: 3, bytes: 740}}
	// Two allocations more, the bytes of the Body, and the recording: a chunk, and the list of chunks.
	kinds = append(kinds, overhead{name: "stream", allocs: 3 + 2 + 1, bytes: 740 + 512 + 4*kib})
	for i := range kinds {
		req := postBody(t, "https://api.example/path", nil)
		for h := range 7 {
			req.Header.Set(fmt.Sprint("X-Header-", h), "value")
		}
		kinds[i].req = req
	}
	kinds[0].req.Method = "GET"
	kinds[1].req.Body = newAgain(kib)
	kinds[1].req.ContentLength = kib
	kinds[1].req.GetBody = func() (io.ReadCloser, error) { return newAgain(kib), nil }
	kinds[2].req.Body = newAgain(kib)
	return kinds
}

type overhead struct {
	name          string
	allocs, bytes float64
	req           *http.Request
}

// cost returns what a round trip allocates.
func cost(rt http.RoundTripper, req *http.Request) (allocs, bytes float64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	rt.RoundTrip(req)
	const n = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		rt.RoundTrip(req)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n, float64(after.TotalAlloc-before.TotalAlloc) / n
}

func TestAcceptedRequestAllocatesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	for _, o := range overheads(t) {
		base := newAccepts()
		baseAllocs, baseBytes := cost(base, o.req)
		allocs, bytes := cost(&transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base}, o.req)
		allocs, bytes = allocs-baseAllocs, bytes-baseBytes
		t.Logf("%s: %.2f allocations and %.0f bytes more than the base", o.name, allocs, bytes)
		if allocs > o.allocs+0.1 || bytes > o.bytes+1 {
			t.Errorf("%s: got %.2f allocations and %.0f bytes more than the base, want at most %.0f and %.0f",
				o.name, allocs, bytes, o.allocs, o.bytes)
		}
	}
}

// zeros is a body of so many bytes that costs nothing to make.
type zeros int64

func (z *zeros) Read(p []byte) (int, error) {
	if *z == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), int64(*z))
	*z -= zeros(n)
	return int(n), nil
}

func (z *zeros) Close() error { return nil }

func TestHugeUploadAllocatesNoMoreThanTheBound(t *testing.T) {
	for _, bound := range []int64{mib, 64 * mib} {
		allocated := func(rt http.RoundTripper) int64 {
			body := zeros(512 * mib)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			rt.RoundTrip(postBody(t, "https://api.example", &body))
			runtime.ReadMemStats(&after)
			return int64(after.TotalAlloc - before.TotalAlloc)
		}
		base := newAccepts()
		auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base, MaxBody: bound}
		if more := allocated(auth) - allocated(base); more > bound+2*mib {
			t.Errorf("bound %d MiB: allocated %d bytes more than the base, want at most %d", bound/mib, more, bound+2*mib)
		}
	}
}

// BenchmarkOverhead sends over a base that answers at once: what Auth itself costs.
func BenchmarkOverhead(b *testing.B) {
	for _, o := range overheads(b) {
		base := newAccepts()
		auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base}
		for name, rt := range map[string]http.RoundTripper{"base": base, "auth": auth} {
			b.Run(o.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					rt.RoundTrip(o.req)
				}
			})
		}
	}
}

// BenchmarkParallel shows whether requests hold each other up, over a Cache as in real
// life: run it with -cpu 1,2 and compare the time per request. Each gets a
// response of its own, for Auth writes to it.
func BenchmarkParallel(b *testing.B) {
	cache := &tokensource.Cache{Source: tokensource.Static(bodyOldToken)}
	rt := &transport.Auth{Source: cache, Base: roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})}
	// As large a heap as a service has: with none, this would measure the collector.
	ballast := make([]byte, 256*mib)
	defer runtime.KeepAlive(ballast)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		req := postBody(b, "https://api.example/path", nil)
		for pb.Next() {
			rt.RoundTrip(req)
		}
	})
}

// uploads are what BenchmarkUpload sends.
var uploads = []struct {
	name  string
	size  zeros
	bound int64
}{
	{"64 MiB recorded", 64 * mib, 64 * mib},
	{"64 MiB unrecorded", 64 * mib, -1},
	{"64 MiB past 4 MiB", 64 * mib, 4 * mib},
	{"16 MiB recorded", 16 * mib, 64 * mib},
	{"4 MiB recorded", 4 * mib, 64 * mib},
	{"1 MiB recorded", mib, 64 * mib},
	{"64 KiB recorded", 64 * kib, 64 * mib},
}

// BenchmarkUpload sends bodies of unknown length over loopback by the base and by Auth in
// turn, and reports the median of Auth's throughput in relation to the base's. The server
// is in the same process: internal/lab/uploads measures more, and with less noise.
func BenchmarkUpload(b *testing.B) {
	for _, protocol := range protocols {
		for _, u := range uploads {
			b.Run(protocol+" "+u.name, func(b *testing.B) {
				url, base := serveOver(b, protocol, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
				auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base, MaxBody: u.bound}
				comparePairs(b, url, u.size, base, auth)
			})
		}
	}
}

func comparePairs(b *testing.B, url string, size zeros, base, auth http.RoundTripper) {
	upload := func(rt http.RoundTripper) float64 {
		body := size
		req := postBody(b, url, nil)
		req.Body = &body
		began := time.Now()
		resp, err := rt.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 {
			b.Fatalf("upload: got %v and %v, want status 200", resp, err)
		}
		resp.Body.Close()
		return time.Since(began).Seconds()
	}
	upload(base)
	var ratios []float64
	pair := func() { ratios = append(ratios, upload(base)/upload(auth)) }
	for b.Loop() {
		pair()
	}
	for len(ratios) < 21 && !testing.Short() { // a median needs some, however short the run
		pair()
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "of-base")
	b.ReportMetric(0, "ns/op")
}
