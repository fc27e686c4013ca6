package fleet_test

import (
	"math"
	"testing"
	"time"
)

// The bounds mean something only if a simulation can break them.
func TestAFixedWindowKeepsTheHerdTogether(t *testing.T) {
	for _, policy := range others {
		t.Run(policy.name, func(t *testing.T) {
			p := plan{replicas: 1000, life: 10 * time.Minute, length: 90 * time.Minute, pause: time.Second, policy: policy}
			r := simulate(t, p)
			if most, _ := r.busiest(5*r.life, r.length, time.Second); r.share(most) < 8 {
				t.Errorf("the busiest second after the fifth lifetime has %d token requests, %.2f%% of the fleet, want a herd", most, r.share(most))
			}
			if lifetimes, ok := r.spread(); ok {
				t.Errorf("the herd spread after %.1f lifetimes", lifetimes)
			}
		})
	}
}

// To leave out requests is a trick that must change nothing. Nor must it matter
// who draws the moment of the refresh, the Cache or the token endpoint, for the
// windows are compared by that.
func TestNeitherTheRequestsLeftOutNorWhoDrawsMatters(t *testing.T) {
	p := plan{replicas: 1000, life: 5 * time.Minute, length: time.Hour, pause: time.Second, policy: own}
	sparse := simulate(t, p)
	p.dense = true
	dense := simulate(t, p)
	p.policy = windowed(cacheWindow.from, cacheWindow.to)
	drawn := simulate(t, p)
	for i, n := range dense.ages[:ageBins/3] {
		if n > 0 {
			t.Errorf("%d tokens were replaced after %.3f of their lives: requests of the first half matter", n, 1.5*float64(i)/ageBins)
		}
	}
	for name, other := range map[string]*record{"left out": sparse, "drawn by the endpoint": drawn} {
		// Of so many tokens from the same distribution, one in a million differ so much.
		if d := distance(dense.ages[:], other.ages[:]); d > 0.03 {
			t.Errorf("%s: the ages of tokens differ by %.3f in distribution", name, d)
		}
	}
}

// distance is Kolmogorov's, of two histograms.
func distance(a, b []int) float64 {
	var sumA, sumB, most float64
	for i := range a {
		sumA, sumB = sumA+float64(a[i]), sumB+float64(b[i])
	}
	var partA, partB float64
	for i := range a {
		partA, partB = partA+float64(a[i])/sumA, partB+float64(b[i])/sumB
		most = max(most, math.Abs(partA-partB))
	}
	return most
}
