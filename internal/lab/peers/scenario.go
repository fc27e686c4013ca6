package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
)

// A scenario is one kind of work, measured for one peer at a time, in worlds of
// its own.
type scenario struct {
	name string

	// serial says that the machine sets its figures: the peers are measured one
	// after another, but for -quick. The figures of others are counts and waits.
	serial bool

	// exclusive says that the figures are of the whole process, such as what it
	// allocates: the peers are measured one after another even so.
	exclusive bool

	ballast int   // bytes that are live meanwhile, beside what the peers need
	body    int64 // the size of its bodies, which have a table of their own; 0: it has none

	measure func(context.Context, sizes, peer) (sample, error)
	lines   []line
}

// A sample is what one measurement gave.
type sample struct {
	values map[string]float64
	words  string // in the place of all values, if not empty
}

// A line is one of the table's: of the medians of a scenario's values it makes a
// cell for each peer. All are the medians of every peer, by name.
type line struct {
	title string
	cell  func(own map[string]float64, all medians) string
	timed bool // by the clock: the base's cell tells the noise
}

// medians of one scenario, by the peer's name and the value's.
type medians map[string]map[string]float64

// results are all samples, by the scenario's name and the peer's.
type results map[string]map[string][]sample

// measureAll measures every scenario with every peer, so many rounds. In each
// round another peer comes first.
func measureAll(ctx context.Context, scenarios []scenario, peers []peer, size sizes, progress io.Writer) (results, error) {
	all := make(results)
	for _, s := range scenarios {
		heap := make([]byte, s.ballast)
		all[s.name] = make(map[string][]sample)
		for round := range size.rounds {
			fmt.Fprintf(progress, "%s: round %d of %d\n", s.name, round+1, size.rounds)
			turn := round % len(peers)
			order := slices.Concat(peers[turn:], peers[:turn])
			samples, err := s.round(ctx, order, size)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			for i, p := range order {
				all[s.name][p.name] = append(all[s.name][p.name], samples[i])
			}
		}
		runtime.KeepAlive(heap)
	}
	return all, nil
}

// round measures each peer once.
func (s scenario) round(ctx context.Context, peers []peer, size sizes) ([]sample, error) {
	samples, errs := make([]sample, len(peers)), make([]error, len(peers))
	one := func(i int) {
		if samples[i], errs[i] = s.measure(ctx, size, peers[i]); errs[i] != nil {
			errs[i] = fmt.Errorf("%s: %w", peers[i].name, errs[i])
		}
	}
	var group sync.WaitGroup
	for i := range peers {
		if s.exclusive || s.serial && !size.quick {
			one(i)
		} else {
			group.Go(func() { one(i) })
		}
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return samples, ctx.Err()
}

// worst are the values of which the worst counts, not the median: what must not
// happen at all.
var worst = []string{"failed", "often", "leaked"}

// median returns the medians of a peer's values, and the worst of some.
func median(samples []sample) map[string]float64 {
	columns := make(map[string][]float64)
	for _, s := range samples {
		for name, v := range s.values {
			columns[name] = append(columns[name], v)
		}
	}
	m := make(map[string]float64)
	for name, column := range columns {
		if m[name] = middle(column); slices.Contains(worst, name) {
			m[name] = slices.Max(column)
		}
	}
	return m
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
