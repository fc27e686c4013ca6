package main

import (
	"fmt"
	"slices"
	"time"
)

// Sizes are how much work there is.
type sizes struct {
	quick  bool
	rounds int

	batches, ops int           // hot path: pairs of batches, and requests in each
	storm        int           // callers at the moment of expiry
	storms       int           // so often
	refresh      time.Duration // how long a token request takes
	loopers      int           // callers when the token is revoked
	loops        int           // requests of each
	late         int           // late refusals
	others       int           // beside the first caller who gives up
	slow         time.Duration // how long a refresh takes that somebody can't wait for
	bodies       []int64
	uploads      int64         // bytes of each size, uploaded to measure throughput
	produce      time.Duration // how long it takes to produce a body
	outage       time.Duration
	processes    int
	turns        int // that processes take
}

var full = sizes{
	rounds:  5,
	batches: 301, ops: 200,
	storm: 10_000, storms: 3, refresh: 200 * time.Millisecond,
	loopers: 1000, loops: 5,
	late: 50, others: 20,
	slow:   2 * time.Second,
	bodies: []int64{64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}, uploads: 64 << 20, produce: 200 * time.Millisecond,
	outage:    2 * time.Second,
	processes: 8, turns: 4,
}

// quick is of a size for tests: what it counts is worth as much as what full
// counts, its timings are worth nothing.
var quick = sizes{
	quick: true, rounds: 1,
	batches: 5, ops: 100,
	storm: 500, storms: 1, refresh: 200 * time.Millisecond,
	loopers: 100, loops: 5,
	late: 50, others: 20,
	slow:   500 * time.Millisecond,
	bodies: []int64{64 << 10, 1 << 20}, uploads: 1 << 20, produce: 20 * time.Millisecond,
	outage:    2 * time.Second,
	processes: 8, turns: 2,
}

// number writes n with a comma for the thousands.
func number(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// scenarios are all of them, in the order of the table.
func scenarios(size sizes) []scenario {
	all := []scenario{
		hotPath(size), storm(size), revocation(size), lateRefusals(size), cancelled(size),
		deadline(size), outage(size), redirects(size), processes(size),
	}
	for i := range all {
		all[i].ballast = ballast
	}
	all = slices.Insert(all, 1, smallHeap(size))
	for _, n := range size.bodies {
		all = append(all, bodies(n))
	}
	return all
}
