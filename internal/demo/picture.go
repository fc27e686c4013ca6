package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"path/filepath"
	"strings"
	"time"
)

//go:embed picture.html
var pictureText string

var pictureTemplate = template.Must(template.New("picture").Parse(pictureText))

// picture writes the timeline as one file that needs nothing else: HTML, or the
// drawing alone if the path ends in .svg. HTML is well-formed XML, too.
func picture(w io.Writer, path string, s summary) error {
	name := "picture"
	if filepath.Ext(path) == ".svg" {
		name = "svg"
	}
	return pictureTemplate.ExecuteTemplate(w, name, newView(s))
}

// The measures of the picture, in its own units; the template has them too. From
// the top: mishaps, refreshes, answers, lanes, axis, legend.
const (
	left, right = 128.0, 1268.0
	answersTop  = 92.0
	answersFoot = 140.0
	lanesTop    = 156.0
	lanesFoot   = 596.0
	maxLanes    = 40
)

// A view is what the template shows.
type view struct {
	Where             string
	What              string
	Clients, Lanes    int
	Requests, Refused int
	Lost              int
	Table             string

	Stroke  float64 // how thick a request is
	Bands   []box
	Mishaps []box
	Ticks   []tick
	Answers string // the outline of the answers over time

	// The requests, as paths: one element for each kind.
	Waiting, Answered, Denied, Again, Losses string
}

// A box is a part of the time; what Class says is shown in a legend.
type box struct {
	Class, Title string
	X, Width     float64
}

// Middle is where its label goes.
func (b box) Middle() float64 { return b.X + b.Width/2 }

type tick struct {
	X     float64
	Label string
}

func newView(s summary) *view {
	v := &view{
		Where: s.where, What: s.what, Clients: s.clients, Lanes: min(s.clients, maxLanes),
		Requests: s.requests, Refused: s.refused, Lost: s.lost,
	}
	var b strings.Builder
	table(&b, s)
	v.Table = b.String()
	a := axis{s.length}
	for _, r := range s.refreshes {
		v.Bands = append(v.Bands, band(a, r))
	}
	for _, m := range s.mishaps {
		v.Mishaps = append(v.Mishaps, a.box(m.span, string(m.kind), ""))
	}
	v.Ticks = a.ticks()
	v.Answers = outline(a, s.exchanges)
	v.drawLanes(a, s.exchanges)
	return v
}

func band(a axis, r refresh) box {
	class, note := string(r.cause), "a token came"
	if r.failed {
		class, note = "failed", "failed"
	}
	return a.box(r.span, class, fmt.Sprintf("%s refresh at %.2f s: %s after %d ms, %d waited",
		r.cause, r.from.Seconds(), note, (r.to-r.from).Milliseconds(), r.waiters))
}

// An axis maps time to the picture.
type axis struct{ length time.Duration }

func (a axis) x(d time.Duration) float64 {
	return left + (right-left)*d.Seconds()/max(a.length.Seconds(), 1e-3)
}

// box is at least wide enough to be seen.
func (a axis) box(s span, class, title string) box {
	x := a.x(s.from)
	return box{class, title, x, max(a.x(s.to)-x, 3)}
}

// ticks are at most 12, at round numbers of seconds.
func (a axis) ticks() (ticks []tick) {
	length := a.length.Seconds()
	step := math.Pow(10, math.Floor(math.Log10(max(length, 1e-3)/12)))
	for _, f := range []float64{2, 2.5, 2} { // 2, 5, 10
		if length/step <= 12 {
			break
		}
		step *= f
	}
	for i := 0; float64(i)*step <= length; i++ {
		at := float64(i) * step
		ticks = append(ticks, tick{a.x(time.Duration(at * float64(time.Second))), fmt.Sprintf("%.4g s", at)})
	}
	return ticks
}

// outline is the curve of how many requests were answered at each time.
func outline(a axis, exchanges []*exchange) string {
	const bins = 120
	counts := make([]int, bins)
	most := 1
	for _, x := range exchanges {
		i := min(int(bins*x.to/max(a.length, 1)), bins-1)
		counts[i]++
		most = max(most, counts[i])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", left, answersFoot)
	for i, n := range counts {
		y := answersFoot - (answersFoot-answersTop)*float64(n)/float64(most)
		fmt.Fprintf(&b, "L%.1f %.1fh%.1f", left+(right-left)*float64(i)/bins, y, (right-left)/bins)
	}
	fmt.Fprintf(&b, "L%.1f %.1fz", right, answersFoot)
	return b.String()
}

// Lanes are the rows of the clients that are shown, a sample if there are many.
type lanes struct {
	axis
	lanes, clients int
	drawn          map[int]float64 // how far each lane is, with what is plain

	waiting, answered, denied, again, losses strings.Builder
}

func (v *view) drawLanes(a axis, exchanges []*exchange) {
	l := &lanes{axis: a, lanes: v.Lanes, clients: v.Clients, drawn: map[int]float64{}}
	for _, x := range exchanges {
		l.draw(x)
	}
	v.Stroke = min(0.6*l.height(), 8)
	v.Waiting, v.Answered, v.Denied = l.waiting.String(), l.answered.String(), l.denied.String()
	v.Again, v.Losses = l.again.String(), l.losses.String()
}

func (l *lanes) height() float64 { return (lanesFoot - lanesTop) / float64(l.lanes) }

// draw draws an exchange if its client is in the sample, and every loss.
func (l *lanes) draw(x *exchange) {
	lane := x.client * l.lanes / l.clients
	y := lanesTop + (float64(lane)+0.5)*l.height()
	if x.lost != nil {
		fmt.Fprintf(&l.losses, "M%.1f %.1fl8 8m0-8l-8 8", l.x(x.to)-4, y-4)
	}
	shown := (lane*l.clients + l.lanes - 1) / l.lanes
	plain := len(x.attempts) == 1 && !x.attempts[0].refused
	if x.client != shown || plain && l.x(x.to) < l.drawn[lane]+1 {
		return // not in the sample, or it would hide behind the one before
	}
	l.drawn[lane] = l.x(x.to)
	ready := l.x(x.from)
	for i, a := range x.attempts {
		ready = l.attempt(a, i > 0 && x.attempts[i-1].refused, ready, y)
	}
}

// attempt draws an attempt and the wait before it, and returns where it ends. A
// replay takes a moment only, for its bytes are there: it gets a few units
// more than it is long, so that it can be seen.
func (l *lanes) attempt(a attempt, replay bool, ready, y float64) float64 {
	path, from, width := &l.answered, max(l.x(a.from), ready), 1.5
	switch {
	case replay && !a.refused:
		path, from, width = &l.again, max(from, ready+4), 4
	case a.refused:
		path = &l.denied
	}
	to := max(l.x(a.to), from+width)
	if from-ready >= 1 {
		fmt.Fprintf(&l.waiting, "M%.1f %.1fH%.1f", ready, y, from)
	}
	fmt.Fprintf(path, "M%.1f %.1fH%.1f", from, y, to)
	return to
}
