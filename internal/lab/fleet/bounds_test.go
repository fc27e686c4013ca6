//go:build !race

// With the race detector these would take minutes, and show no more than
// validity_test.go does.

package fleet_test

import (
	"math"
	"testing"
	"time"
)

func TestAFleetSpreadsOut(t *testing.T) {
	for _, l := range lifetimes {
		t.Run(l.life.String(), func(t *testing.T) {
			p := plan{replicas: *replicas, life: l.life, length: 8 * l.life, pause: 4 * time.Second, policy: own}
			if *whole {
				p.length, p.pause = 24*time.Hour, time.Second
			}
			r := simulate(t, p)
			checkQuiet(t, r, l.bound)
			checkPaper(t, r)
		})
	}
}

// checkQuiet checks what must hold while nothing fails.
func checkQuiet(t *testing.T, r *record, bound float64) {
	t.Helper()
	if most, _ := r.busiest(time.Second, r.quiet(), time.Second); r.share(most) > bound {
		t.Errorf("the busiest second after the first has %d token requests, %.2f%% of the fleet, want at most %v%%", most, r.share(most), bound)
	}
	if most, mean := r.busiest(5*r.life, r.quiet(), time.Minute); float64(most) > 1.5*mean {
		t.Errorf("the busiest minute after the fifth lifetime has %d token requests, %.2f times the mean, want at most 1.5 times", most, float64(most)/mean)
	}
}

// checkPaper compares each sixtieth of the first eight lifetimes with what is
// expected: a Poisson number of that mean, give or take a cell of the paper's.
func checkPaper(t *testing.T, r *record) {
	t.Helper()
	expected := sums(cacheWindow.expect(r.plan, 8), cells/60)
	cell := float64(r.replicas) / (cells * (cacheWindow.to - cacheWindow.from))
	for i, n := range r.counts(0, 8*r.life, r.life/60) {
		e := expected[i]
		if off := math.Abs(float64(n) - e); off > 6*math.Sqrt(e)+0.03*e+cell {
			t.Errorf("%d token requests in the sixtieth of a lifetime at %v, want about %.0f", n, time.Duration(i)*r.life/60, e)
		}
	}
}

func TestAFleetComesBackFromAnOutage(t *testing.T) {
	for _, l := range lifetimes {
		t.Run(l.life.String(), func(t *testing.T) {
			p := plan{replicas: *replicas, life: l.life, pause: 1500 * time.Millisecond, policy: own}
			p.outage = outage{4 * l.life, 10 * time.Minute, refused}
			p.length = p.outage.end() + 10*time.Minute
			if *whole {
				p.length, p.pause, p.outage.from = 24*time.Hour, time.Second, 15*time.Hour
			}
			r := simulate(t, p)
			checkOutage(t, r)
			checkModel(t, r)
		})
	}
}

// checkOutage checks what must hold after ten minutes in which the token
// endpoint refused connections.
func checkOutage(t *testing.T, r *record) {
	t.Helper()
	if most, _ := r.busiest(r.outage.end(), r.length, time.Second); r.share(most) > 2 {
		t.Errorf("the busiest second after the outage has %d token requests, %.2f%% of the fleet, want at most 2%%", most, r.share(most))
	}
	if r.served > 2*time.Minute {
		t.Errorf("all are served %v after the outage, want 2 minutes at most", r.served)
	}
	if r.served == 0 {
		t.Error("no request failed, so the outage shows nothing")
	}
}

// checkModel compares what happens in the outage with what the paper says of it.
func checkModel(t *testing.T, r *record) {
	t.Helper()
	if r.life > r.outage.length {
		if want := cacheWindow.without(r.plan); math.Abs(float64(r.without)-want) > 6*math.Sqrt(want)+5 {
			t.Errorf("%d replicas are without a good token at the end of the outage, want about %.0f", r.without, want)
		}
		return
	}
	_, got := r.busiest(r.outage.from, r.outage.end(), time.Second)
	_, want := cacheSpacing.model(r.plan).busiest(0, r.outage.length, time.Second)
	if math.Abs(got/want-1) > 0.05 {
		t.Errorf("%.1f token requests in a second of the outage, want about %.1f", got, want)
	}
}

// Here nothing but the spacing keeps the fleet apart.
func TestAFleetThatIsDeployedIntoAnOutageSpreadsOut(t *testing.T) {
	p := plan{replicas: *replicas, life: 5 * time.Minute, pause: 1500 * time.Millisecond, policy: own}
	p.outage = outage{0, 10 * time.Minute, refused}
	p.length = p.outage.end() + p.life
	checkOutage(t, simulate(t, p))
}

// An attempt takes 30 s here, and those under way end after the outage.
func TestAFleetComesBackFromAnEndpointThatHangs(t *testing.T) {
	p := plan{replicas: *replicas, life: 5 * time.Minute, pause: 1500 * time.Millisecond, policy: own}
	p.outage = outage{4 * p.life, 10 * time.Minute, silent}
	p.length = p.outage.end() + p.life
	checkOutage(t, simulate(t, p))
}
