package fleet_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	whole    = flag.Bool("whole", false, "simulate whole days, print the tables and draw the picture")
	replicas = flag.Int("replicas", 10_000, "how many replicas a fleet has; the bounds are meant for 10,000 and more")
)

// The two lifetimes that everything is shown for, and the most token requests
// in a second, in percent of the fleet, when nothing fails.
var lifetimes = []struct {
	life  time.Duration
	bound float64
}{
	{5 * time.Minute, 1.5},
	{time.Hour, 0.5},
}

// TestFigures prints the tables of README.md, and draws the picture.
func TestFigures(t *testing.T) {
	if !*whole {
		t.Skip("takes minutes: run it with -whole")
	}
	fmt.Printf("%d replicas, each with a request every second on average, started within a second.\n", *replicas)
	for _, l := range lifetimes {
		days := wholeDays(t, l.life)
		tableOfDays(days)
		tableOfPaper(days)
		if l.life == time.Hour {
			draw(t, []*record{of(days, xoauth2), of(days, google), of(days, own)})
		}
	}
	tableOfWindows(t)
}

// TestFiguresOfOutages prints the tables of README.md that tell of outages.
func TestFiguresOfOutages(t *testing.T) {
	if !*whole {
		t.Skip("takes minutes: run it with -whole")
	}
	for _, l := range lifetimes {
		outages := afterSixLifetimes(t, l.life)
		tableOfOutages(outages)
		tableOfPaperOutage(of(outages, own))
		tableOfKinds(t, l.life)
	}
	tableOfSpacings()
}

// wholeDays simulates a day for each policy, with an outage at 14:55 or soon after.
func wholeDays(t *testing.T, life time.Duration) []*record {
	return each(t, life, 15*time.Hour-5*time.Minute, 24*time.Hour)
}

// afterSixLifetimes simulates an outage after six lifetimes, for each policy.
func afterSixLifetimes(t *testing.T, life time.Duration) []*record {
	return each(t, life, 6*life, 8*life+30*time.Minute)
}

// each simulates a fleet with each policy, with an outage of ten minutes.
func each(t *testing.T, life, from, length time.Duration) []*record {
	var days []*record
	for _, policy := range append([]policy{own}, others...) {
		if !policy.fits(life) {
			continue
		}
		days = append(days, simulate(t, plan{
			replicas: *replicas, life: life, length: length, pause: time.Second, policy: policy,
			outage: outage{unlucky(policy, life, from), 10 * time.Minute, refused},
		}))
	}
	return days
}

func of(days []*record, p policy) *record {
	return days[slices.IndexFunc(days, func(r *record) bool { return r.policy.name == p.name })]
}

// unlucky is when an outage of ten minutes begins, then or soon after, so that
// it meets a herd if there is one.
func unlucky(p policy, life, from time.Duration) time.Duration {
	if p.draw == nil {
		return from
	}
	period := p.draw(life) + time.Second
	if herd := (from + period).Truncate(period); herd > from+9*time.Minute {
		return (herd - 5*time.Minute).Truncate(time.Minute)
	}
	return from
}

func tableOfDays(days []*record) {
	title("A token lives %v. The day until the outage, after the first second", days[0].life)
	header("refreshed", "token requests in a lifetime, for each replica", "in a second, on average", "in the busiest second", "of the fleet", "busiest over average", "the herd has spread after")
	for _, r := range days {
		most, _ := r.busiest(time.Second, r.quiet(), time.Second)
		_, mean := r.busiest(r.life, r.quiet(), time.Second)
		row(r.policy.name, round(mean*r.life.Seconds()/float64(r.replicas)), round(mean),
			most, percent(r, most), round(float64(most)/mean), spread(r))
	}
}

func tableOfOutages(days []*record) {
	title("A token lives %v. An outage of 10 minutes", days[0].life)
	headerOfOutages("refreshed")
	for _, r := range days {
		rowOfOutage(r.policy.name, r)
	}
}

func headerOfOutages(first string) {
	header(first, "token requests during the outage, for each replica", "in its busiest second", "of the fleet",
		"replicas without a token at its end", "token requests in the first second after it", "in the busiest", "of the fleet", "all served after")
}

func rowOfOutage(name string, r *record) {
	during, mean := r.busiest(r.outage.from, r.outage.end(), time.Second)
	after, _ := r.busiest(r.outage.end(), r.length, time.Second)
	served := "none failed"
	if r.served > 0 {
		served = seconds(r.served)
	}
	row(name, round(mean*r.outage.length.Seconds()/float64(r.replicas)), during, percent(r, during),
		percent(r, r.without), r.seconds[r.outage.end()/time.Second], after, percent(r, after), served)
}

// tableOfKinds shows the Cache in outages of all kinds.
func tableOfKinds(t *testing.T, life time.Duration) {
	title("A token lives %v. The Cache in other outages", life)
	headerOfOutages("outage")
	for _, kind := range []struct {
		name   string
		length time.Duration
		answer func(context.Context) error
		start  bool
	}{
		{name: "10 s", length: 10 * time.Second, answer: refused},
		{name: "1 min", length: time.Minute, answer: refused},
		{name: "10 min", length: 10 * time.Minute, answer: refused},
		{name: "1 h", length: time.Hour, answer: refused},
		{name: "10 min, `503` with `Retry-After: 60`", length: 10 * time.Minute, answer: retryAfter},
		{name: "10 min, no answer in 30 s", length: 10 * time.Minute, answer: silent},
		{name: "10 min, deployed into it", length: 10 * time.Minute, answer: refused, start: true},
		{name: "10 min, deployed into it, `Retry-After: 60`", length: 10 * time.Minute, answer: retryAfter, start: true},
	} {
		p := plan{replicas: *replicas, life: life, pause: time.Second, policy: own}
		p.outage = outage{6 * life, kind.length, kind.answer}
		if kind.start {
			p.outage.from = 0
		}
		p.length = p.outage.end() + 10*time.Minute
		rowOfOutage(kind.name, simulate(t, p))
	}
}

// tableOfPaper sets what is expected beside what was simulated.
func tableOfPaper(days []*record) {
	r, expiry := of(days, own), of(days, atExpiry)
	title("A token lives %v. On paper", r.life)
	header("", "paper", "simulated")
	n, w, life := float64(r.replicas), cacheWindow, r.life.Seconds()
	_, mean := r.busiest(6*r.life, r.quiet(), time.Second)

	herds := int(expiry.quiet() / (r.life + r.pause))
	last, _ := expiry.busiest(expiry.quiet()-r.life, expiry.quiet(), time.Second)
	row(fmt.Sprintf("at expiry: busiest second of refresh %d", herds), round(herd(r.plan, herds)), last)

	_, first := r.busiest(r.life*3/5, r.life*17/20, time.Second) // within the window
	row("a second of the first refreshes: N/(wL)", round(n/(life*(w.to-w.from))), round(first))
	row("a second later: N/(μL)", round(n/(life*w.mean(r.plan))), round(mean))
	most, _ := r.busiest(r.life/60, r.quiet(), time.Second)
	row("the busiest second", w.busiestSecond(r.plan, int(r.quiet()/r.life)), most)
	for i, ripple := range w.ripple(r.plan, 6)[1:] {
		from := time.Duration(i+1) * r.life
		most, _ := r.busiest(from, from+r.life, r.life/60)
		row(fmt.Sprintf("the busiest sixtieth of lifetime %d, over the average", i+2), round(ripple), round(float64(most)*60/(mean*life)))
	}
}

// tableOfPaperOutage sets what is expected of an outage beside what was simulated.
func tableOfPaperOutage(r *record) {
	title("A token lives %v. An outage on paper", r.life)
	header("", "paper", "simulated")
	model := cacheSpacing.model(r.plan)
	_, expected := model.busiest(0, r.outage.length, time.Second)
	_, during := r.busiest(r.outage.from, r.outage.end(), time.Second)
	row("a second of the outage, on average", round(expected), round(during))
	if r.life > r.outage.length {
		row("replicas without a token at its end", round(cacheWindow.without(r.plan)), r.without)
		return
	}
	_, after := r.busiest(r.outage.end(), r.outage.end()+40*time.Second, time.Second)
	row("a second after the outage: N/(80 s)", round(float64(r.replicas)/(cacheSpacing.limit*(1+cacheSpacing.low)/2)), round(after))
	row("all served after", seconds(model.served), seconds(r.served))
}

// tableOfWindows shows what the bounds of the window cost and bring. The token
// endpoint draws the moments here; the Cache is the same.
func tableOfWindows(t *testing.T) {
	title("The window")
	header("window", "token requests in a lifetime, for each replica",
		"life 5 min: busiest second, of the fleet", "life 1 h: busiest second, of the fleet", "busiest minute after the fifth lifetime over the average",
		"the herd has spread after", "without a token after an outage of 10 min")
	for _, w := range []window{
		{0.80, 0.80}, {0.75, 0.85}, {0.80, 1.00}, {0.70, 0.90}, {0.65, 0.90}, {0.60, 0.90}, {0.55, 0.90}, {0.50, 0.90}, {0.40, 0.90}, {0.30, 0.90},
		{0.50, 0.80}, {0.45, 0.80}, {0.50, 0.85}, {0.55, 0.95}, {0.60, 0.95}, {0.65, 1.00},
	} {
		p := plan{replicas: *replicas, pause: time.Second, policy: windowed(w.from, w.to)}
		p.life, p.length = 5*time.Minute, time.Hour
		short := simulate(t, p)
		p.life, p.outage = time.Hour, outage{10 * time.Hour, 10 * time.Minute, refused}
		p.length = p.outage.end() + 10*time.Minute
		long := simulate(t, p)

		shortMost, _ := short.busiest(time.Second, short.quiet(), time.Second)
		longMost, _ := long.busiest(time.Second, long.quiet(), time.Second)
		minute, mean := long.busiest(5*p.life, long.quiet(), time.Minute)
		row(p.policy.name, round(mean*60/float64(p.replicas)), percent(short, shortMost), percent(long, longMost),
			round(float64(minute)/mean), spread(long), percent(long, long.without))
	}
}

// tableOfSpacings shows what the constants of the spacing after failures cost and bring.
func tableOfSpacings() {
	title("The spacing after failures, modelled. A token lives 5m0s")
	header("first, share, limit, at least", "token requests of one client in an outage of 2 s, at most",
		"outage of 1 min: busiest second in it, of the fleet", "first second after", "last one after",
		"outage of 10 min: token requests for each replica", "busiest second in it, of the fleet", "busiest second after", "last one after")
	for _, s := range []spacing{
		cacheSpacing, {0.3, 0.25, 100, 0}, {0.3, 0.25, 100, 0.5}, {0.3, 0.25, 100, 0.8}, {0.3, 0.25, 50, 0.6}, {0.3, 0.25, 75, 0.6}, {0.3, 0.25, 120, 0.6},
		{0.3, 0.1, 100, 0.6}, {0.3, 0.5, 100, 0.6}, {0.3, 1, 100, 0.6}, {0.15, 0.25, 100, 0.6}, {1, 0.25, 100, 0.6}, {0.3, 0.25, 5, 0.6},
	} {
		p := plan{replicas: *replicas, life: 5 * time.Minute, pause: time.Second}
		p.outage.length = time.Minute
		short := s.model(p)
		p.outage.length = 10 * time.Minute
		long := s.model(p)
		inShort, _ := short.busiest(0, short.outage.length, time.Second)
		inLong, mean := long.busiest(0, long.outage.length, time.Second)
		after, _ := long.busiest(long.outage.length, long.outage.length+3*time.Minute, time.Second)
		row(fmt.Sprintf("%v s, %v, %v s, %v", s.first, s.share, s.limit, s.low), s.most(2),
			percent(short, inShort), percent(short, short.seconds[60]), seconds(short.served),
			round(mean*long.outage.length.Seconds()/float64(p.replicas)), percent(long, inLong), percent(long, after), seconds(long.served))
	}
}

func percent(r *record, n int) string { return round(r.share(n)) + " %" }

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }

func spread(r *record) string {
	lifetimes, ok := r.spread()
	if !ok {
		return "never"
	}
	return fmt.Sprintf("%.1f lifetimes", lifetimes)
}

// round leaves three digits, or the whole number.
func round(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

func title(format string, args ...any) { fmt.Printf("\n### "+format+"\n\n", args...) }

func header(cells ...string) {
	fmt.Printf("| %s |\n|%s\n", strings.Join(cells, " | "), strings.Repeat("---|", len(cells)))
}

func row(cells ...any) {
	for _, c := range cells {
		fmt.Printf("| %v ", c)
	}
	fmt.Println("|")
}
