package fleet_test

import (
	"slices"
	"time"
)

// A record is what the token endpoint saw.
type record struct {
	plan
	seconds []int // token requests in each second
	ages    [ageBins]int
	without int           // replicas without a good token at the end of the outage
	served  time.Duration // from the end of the outage until everybody was served
}

// ageBins divide the life of a token, and half as much again.
const ageBins = 200

func (f *fleet) record() *record {
	r := &record{plan: f.plan, without: f.without}
	if f.outage.length > 0 {
		r.served = max(f.served-f.outage.end(), 0)
	}
	for i := range f.seconds {
		r.seconds = append(r.seconds, int(f.seconds[i].Load()))
	}
	for i := range f.ages {
		r.ages[i] = int(f.ages[i].Load())
	}
	return r
}

// counts returns the token requests of each span from a moment to another.
func (r *record) counts(from, to, span time.Duration) []int {
	var counts []int
	for ; from+span <= to; from += span {
		n := 0
		for _, c := range r.seconds[from/time.Second : (from+span)/time.Second] {
			n += c
		}
		counts = append(counts, n)
	}
	return counts
}

// busiest returns the most token requests in a span, and the mean.
func (r *record) busiest(from, to, span time.Duration) (most int, mean float64) {
	counts := r.counts(from, to, span)
	total := 0
	for _, n := range counts {
		total += n
	}
	return slices.Max(counts), float64(total) / float64(len(counts))
}

// quiet is the time before the outage.
func (r *record) quiet() time.Duration {
	if r.outage.length > 0 {
		return r.outage.from
	}
	return r.length
}

// spread returns after how many lifetimes the last sixtieth of a lifetime ended that
// had more than 1.5 times the mean of token requests; false if that goes on.
func (r *record) spread() (lifetimes float64, ok bool) {
	span := r.life / 60
	counts := r.counts(0, r.quiet(), span)
	_, mean := r.busiest(r.life, r.quiet(), span)
	for i, n := range slices.Backward(counts) {
		if float64(n) > 1.5*mean {
			lifetimes = float64(i+1) / 60
			break
		}
	}
	return lifetimes, time.Duration((lifetimes+1)*float64(r.life)) < r.quiet()
}

// share is n in percent of the fleet.
func (r *record) share(n int) float64 { return 100 * float64(n) / float64(r.replicas) }
