package fleet_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// What follows is the paper: formulas of what the simulation counts. README.md
// explains them.

// A window is a part of a token's life in which the moment of the refresh is
// drawn, evenly.
type window struct{ from, to float64 }

// cacheWindow is the Cache's own.
var cacheWindow = window{0.55, 0.90}

// cells divide a lifetime.
const cells = 1200

// mean is the part of its life after which a token is replaced, on average. The
// first request after the moment that was drawn does it.
func (w window) mean(p plan) float64 { return (w.from+w.to)/2 + float64(p.pause)/float64(p.life) }

// interval is how long a token is used, as the probability of each cell: evenly
// in the window, and then until the next request.
func (w window) interval(p plan) []float64 {
	stay := math.Exp(-float64(p.life) / cells / float64(p.pause)) // no request in a cell
	f := make([]float64, int(w.to*cells)+int(10*cells*p.pause/p.life)+2)
	carried := 0.0
	for i := range f {
		at := (float64(i) + 0.5) / cells
		if w.from <= at && at < w.to {
			carried += 1 / (cells * (w.to - w.from))
		}
		f[i] = carried * (1 - stay)
		carried *= stay
	}
	return f
}

// expect returns how many token requests the fleet is expected to make in each
// cell: u(t) = first(t) + ∫ f(x) u(t−x) dx, the renewal equation.
func (w window) expect(p plan, lifetimes int) []float64 {
	f := w.interval(p)
	least := slices.IndexFunc(f, func(x float64) bool { return x > 0 })
	u := make([]float64, lifetimes*cells)
	first := max(1, int(math.Round(float64(cells*time.Second)/float64(p.life)))) // they start within a second
	for i := range u {
		if i < first {
			u[i] = float64(p.replicas) / float64(first)
		}
		for k := least; k < min(len(f), i+1); k++ {
			u[i] += f[k] * u[i-k]
		}
	}
	return u
}

// ripple is the busiest sixtieth of each lifetime over the mean.
func (w window) ripple(p plan, lifetimes int) []float64 {
	var most []float64
	sixtieths := sums(w.expect(p, lifetimes), cells/60)
	for life := range slices.Chunk(sixtieths, 60) {
		most = append(most, slices.Max(life)*60*w.mean(p)/float64(p.replicas))
	}
	return most
}

// busiestSecond is the median of the most token requests in a second, after the
// first sixtieth of a lifetime: the number in each second is Poisson's.
func (w window) busiestSecond(p plan, lifetimes int) int {
	const settled = 12 // lifetimes, after which the expectation is constant
	seconds := p.life.Seconds() / cells
	var means []float64 // of the token requests in a second, for each cell
	for _, e := range w.expect(p, min(lifetimes, settled))[cells/60:] {
		means = append(means, e/seconds)
	}
	mean := float64(p.replicas) / (w.mean(p) * p.life.Seconds())
	for k := int(slices.Max(means)); ; k++ {
		logP := p.life.Seconds() * float64(max(lifetimes-settled, 0)) * logAtMost(k, mean)
		for _, mean := range means {
			logP += seconds * logAtMost(k, mean)
		}
		if logP > math.Log(0.5) {
			return k
		}
	}
}

// logAtMost is the logarithm of the probability that a Poisson number of this mean is at most k.
func logAtMost(k int, mean float64) float64 {
	term, sum := math.Exp(-mean), 0.0
	for i := 0; i <= k; i++ {
		sum += term
		term *= mean / float64(i+1)
	}
	return math.Log(min(sum, 1))
}

// sums adds up every n of x.
func sums(x []float64, n int) []float64 {
	var s []float64
	for part := range slices.Chunk(x, n) {
		total := 0.0
		for _, v := range part {
			total += v
		}
		s = append(s, total)
	}
	return s
}

// without is how many replicas have no good token at the end of an outage that
// is shorter than a lifetime. Each moment of it meets the refreshes of tokens
// whose part u was drawn from the window; the rest of their life, 1−u, was too short
// for those who met it before the last 1−u of the outage.
func (w window) without(p plan) float64 {
	down := float64(p.outage.length) / float64(p.life)
	least := max(w.from, 1-down) // of u, to matter
	if least >= w.to {
		return 0
	}
	mean := (least+w.to)/2 - (1 - down)
	return float64(p.replicas) * mean * (w.to - least) / ((w.to - w.from) * w.mean(p))
}

// A spacing is how long a client rests after a failure: for a share of the time
// that it has rested in this row, at least first and at most limit seconds, drawn
// between low and the whole.
type spacing struct{ first, share, limit, low float64 }

// cacheSpacing is the Cache's own.
var cacheSpacing = spacing{0.3, 0.25, 100, 0.6}

func (s spacing) wait(rested float64) float64 {
	return min(max(s.first, rested*s.share), s.limit) * (s.low + (1-s.low)*rand.Float64())
}

// most is the most token requests of 100,000 clients that always ask, in an outage of so many seconds.
func (s spacing) most(down float64) int {
	most := 0
	for range 100_000 {
		n := 0
		for at := 0.0; at < down; n++ {
			at += s.wait(at)
		}
		most = max(most, n)
	}
	return most
}

// model is a fleet in an outage, without Cache. The record begins with the outage;
// served is when the last replica that had failed had a token.
func (s spacing) model(p plan) *record {
	r := &record{plan: p, seconds: make([]int, (p.outage.length+10*time.Minute)/time.Second)}
	down, served := p.outage.length.Seconds(), 0.0
	for range p.replicas {
		at := cacheWindow.phase() * p.life.Seconds()
		for rested := 0.0; int(at) < len(r.seconds); {
			r.seconds[int(at)]++
			if at >= down {
				if rested > 0 {
					served = max(served, at-down)
				}
				break
			}
			rest := s.wait(rested)
			rested += rest
			at += rest + s.idle(rested, p)
		}
	}
	r.served = time.Duration(served * float64(time.Second))
	return r
}

// idle draws how long it is from the end of a rest to the next request. In the first
// 3 s callers wait for it.
func (s spacing) idle(rested float64, p plan) float64 {
	if rested < 3 {
		return 0
	}
	return rand.ExpFloat64() * p.pause.Seconds()
}

// herd is the busiest second of the nth refresh of a fleet with a fixed window,
// which only the pauses between requests pull apart: Gamma's density at its top.
func herd(p plan, n int) float64 {
	return float64(p.replicas) / math.Sqrt(2*math.Pi*float64(n-1)) / p.pause.Seconds()
}

// phase draws how long it is, in lifetimes, from a moment long after the start to the next refresh.
func (w window) phase() float64 {
	at := -20 * rand.Float64()
	for at < 0 {
		at += w.from + (w.to-w.from)*rand.Float64()
	}
	return at
}
