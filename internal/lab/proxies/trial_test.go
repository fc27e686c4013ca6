package proxies_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// A trial sends uploads one way by one protocol.
type trial struct {
	t *testing.T
	way
	client          *client
	failed, instead atomic.Int32
}

// enough failures end a trial.
const enough = 20

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
	tr.t.Logf("%d uploads: %d failed, %d got %d", n, tr.failed.Load(), tr.instead.Load(), tr.way.instead)
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
