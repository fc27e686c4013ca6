package storetest

import (
	"fmt"
	"slices"
)

// excused reports whether no store can prevent the refusal of a refresh token: a worker
// had spent it and was killed before it could report that the next one was saved, and
// no other worker has ever received that next one. If it had been saved at the last
// moment, the next worker would have received it.
func (f *fleet) excused(r refusal) bool {
	f.front.mu.Lock()
	defer f.front.mu.Unlock()
	spent, known := f.front.rotations[r.spent]
	_, used := f.front.rotations[spent.next]
	return known && f.killed[spent.worker] && !f.front.saved[spent.next] && !used
}

// refusals returns those that the scenario has not judged yet; front.mu is held.
func (f *fleet) refusals() []refusal {
	return slices.DeleteFunc(slices.Clone(f.front.refusals), func(r refusal) bool { return f.lost[r.spent] })
}

// verify checks, after all workers have ended, what must hold in every scenario: no
// refresh token was spent twice, and no request has failed, except for tokens that were
// lost with a worker.
func (f *fleet) verify() {
	f.t.Helper()
	reuses := 0
	for _, r := range f.front.refusals {
		if !f.lost[r.spent] {
			f.t.Errorf("worker %d: its refresh token was refused; want none refused", r.worker)
		}
		if _, spent := f.front.rotations[r.spent]; spent {
			reuses++
		}
	}
	c, rotations := f.srv.Counts(), len(f.front.rotations)
	if c.Rotations != rotations || c.Reuses != reuses || c.TokenRequests != rotations+len(f.front.refusals)+f.logins {
		f.t.Errorf("got %+v; want %d rotations, %d reuses and nothing else", c, rotations, reuses)
	}
	for _, failed := range f.front.failures {
		if !f.mayFail(failed) {
			f.t.Errorf("a request of %s failed: %s", failed.Goroutine, failed.Reason)
		}
	}
	for _, e := range f.front.errors {
		f.t.Error(e)
	}
	f.t.Log(f.front)
}

func (f *fleet) mayFail(failed failure) bool {
	if f.disturbed && !failed.LoggedOut {
		return true
	}
	for _, o := range f.outages {
		if failed.LoggedOut && failed.At.After(o.from) && failed.At.Before(o.to) {
			return true
		}
	}
	return false
}

// String returns what has happened in numbers.
func (f *front) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	requests := 0
	for _, a := range f.answered {
		requests += a.requests
	}
	return fmt.Sprintf("%d rotations, %d refresh tokens refused, %d requests answered for %d goroutines, %d failed",
		len(f.rotations), len(f.refusals), requests, len(f.answered), len(f.failures))
}
