package proxies_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// A trial sends uploads one way by one protocol.
type trial struct {
	t *testing.T
	way
	client          *client
	failed, instead atomic.Int32
	unflushed       atomic.Int32 // chunked uploads whose 401 was lost, see lastFlush
}

// enough failures end a trial.
const enough = 20

// lastFlush reports whether net/http may have lost the 401 for good: it writes the
// end of a chunked body when it has closed that body, and so nothing can make it
// read an answer that came before this write failed.
func lastFlush(u upload, err error) bool {
	return u.chunked && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
}

// run sends so many uploads, and says what became of them.
func (tr *trial) run(n int) string {
	some := slices.DeleteFunc(slices.Clone(all), func(u upload) bool {
		return u.chunked && tr.without == noLength && tr.client.http2()
	})
	together(n, func(i int) {
		if tr.failed.Load() < enough {
			tr.send(some[i%len(some)])
		}
	})
	lost := tr.unflushed.Load()
	tr.t.Logf("%d uploads: %d failed, %d were lost by the last flush, %d got %d", n, tr.failed.Load(), lost, tr.instead.Load(), tr.way.instead)
	if int(lost) > 1+n/200 { // 2 of 25,982 were seen
		tr.t.Errorf("%d of %d uploads were lost by the last flush", lost, n)
	}
	if tr.way.instead == 0 {
		return "every upload succeeds"
	}
	return fmt.Sprintf("%d instead of a 401 %s", tr.way.instead, strings.Join(tr.points, " or "))
}

// send sends an upload, which must succeed unless its refusal may be lost.
func (tr *trial) send(u upload) {
	status, err := tr.client.send(tr.t.Context(), u)
	switch {
	case err == nil && status == http.StatusOK:
	case err == nil && status == tr.way.instead && slices.Contains(tr.points, u.point):
		tr.instead.Add(1)
	case lastFlush(u, err):
		tr.unflushed.Add(1)
	case tr.failed.Add(1) <= 5:
		tr.t.Errorf("%v: status %d, error %v", u, status, err)
	}
}

// together calls f with 0 to n-1, for as many callers as the flag says.
func together(n int, f func(i int)) {
	var next atomic.Int64
	var active sync.WaitGroup
	for range *callers {
		active.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				f(i - 1)
			}
		})
	}
	active.Wait()
}
