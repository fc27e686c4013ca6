package fleet_test

import (
	_ "embed"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"
)

var svg = flag.String("svg", "../../../docs/fleet.svg", "where -whole draws the picture, a `FILE`")

//go:embed picture.svg
var pictureText string

var pictureTemplate = template.Must(template.New("picture").Parse(pictureText))

// The measures of the picture; the template has some of them, too.
const (
	plotHeight = 104.0
	panelTop   = 138.0 // of the first one's plots
	panelStep  = 174.0
)

// decades are those of the scale, which begins at 1.
func decades() int { return int(math.Ceil(math.Log10(float64(*replicas)))) }

// A picture is what the template shows: a panel for each record, and in each
// panel a plot of the day and one of the time around the outage.
type picture struct {
	Replicas                 string
	Height, Foot, PlotHeight float64
	DownMiddle               float64
	Levels                   []level
	Plots                    []plot
	Panels                   []panel
}

type level struct {
	Y     float64
	Label string
}

type tick struct {
	X     float64
	Label string
}

type panel struct {
	Name, Remark, Class string
	Top                 float64
	Areas               []string
}

// A plot is a part of the time, and where it is drawn.
type plot struct {
	from, to, bin time.Duration
	Left, Right   float64
	Axis          string
	Ticks         []tick

	DownX, DownWidth float64
	DownLabel        string
}

func (p plot) x(at time.Duration) float64 {
	return p.Left + (p.Right-p.Left)*float64(at-p.from)/float64(p.to-p.from)
}

func (p plot) Middle() float64 { return (p.Left + p.Right) / 2 }

// area is the outline of the busiest second in each bin.
func (p plot) area(r *record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %v", p.Left, plotHeight)
	for at := p.from; at < p.to; at += p.bin {
		most := slices.Max(r.seconds[at/time.Second : (at+p.bin)/time.Second])
		fmt.Fprintf(&b, "L%.1f %.1fH%.1f", p.x(at), height(most), p.x(at+p.bin))
	}
	fmt.Fprintf(&b, "V%vz", plotHeight)
	return b.String()
}

// height is where so many token requests are on the scale. One is a little above
// none.
func height(n int) float64 {
	if n == 0 {
		return plotHeight
	}
	return plotHeight * (1 - (math.Log10(float64(n))+0.04)/(float64(decades())+0.04))
}

// draw draws the picture of three of the days.
func draw(t *testing.T, days []*record) {
	t.Helper()
	var b strings.Builder
	if err := pictureTemplate.Execute(&b, newPicture(days)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*svg, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nThe picture: %s\n", *svg)
}

// names are the headings of the panels.
var names = map[string]string{
	own.name:     "At random between 55 and 90 percent of its life: tokentripper",
	google.name:  "3 min 45 s before expiry, as cloud.google.com/go/auth; failures spaced as below",
	xoauth2.name: "10 s before expiry, as golang.org/x/oauth2, with no memory of failures",
}

func newPicture(days []*record) *picture {
	o := days[0].outage
	day, around := dayPlot(o), aroundPlot(o)
	p := &picture{
		Replicas: grouped(days[0].replicas), PlotHeight: plotHeight, Plots: []plot{day, around},
		DownMiddle: around.DownX + around.DownWidth/2,
	}
	for i := range decades() + 1 {
		n := int(math.Pow10(i))
		p.Levels = append(p.Levels, level{height(n), grouped(n)})
	}
	for i, r := range days {
		p.Foot = panelTop + float64(i)*panelStep
		p.Panels = append(p.Panels, panel{
			Name: names[r.policy.name], Class: class(r), Remark: remark(r), Top: p.Foot,
			Areas: []string{day.area(r), around.area(r)},
		})
	}
	p.Foot += plotHeight
	p.Height = p.Foot + 52
	return p
}

func dayPlot(o outage) plot {
	p := plot{to: 24 * time.Hour, bin: 6 * time.Minute, Left: 64, Right: 544, Axis: "hours since the start"}
	for at := time.Duration(0); at <= p.to; at += 3 * time.Hour {
		p.Ticks = append(p.Ticks, tick{p.x(at), fmt.Sprint(at.Hours())})
	}
	return p.mark(o)
}

func aroundPlot(o outage) plot {
	p := plot{
		from: o.from - 5*time.Minute, to: o.end() + 10*time.Minute, bin: 5 * time.Second, Left: 584, Right: 784,
		Axis: "around the outage", DownLabel: "token endpoint down",
	}
	for at := o.from; at < p.to; at += o.length {
		p.Ticks = append(p.Ticks, tick{p.x(at), fmt.Sprintf("%d:%02d", int(at.Hours()), int(at.Minutes())%60)})
	}
	return p.mark(o)
}

// mark marks the outage.
func (p plot) mark(o outage) plot {
	p.DownX = p.x(o.from)
	p.DownWidth = p.x(o.end()) - p.DownX
	return p
}

func class(r *record) string {
	if r.policy.draw == nil {
		return "own"
	}
	return "other"
}

func remark(r *record) string {
	before, _ := r.busiest(time.Second, r.quiet(), time.Second)
	during, _ := r.busiest(r.outage.from, r.outage.end(), time.Second)
	after, _ := r.busiest(r.outage.end(), r.length, time.Second)
	return fmt.Sprintf("Busiest second after the first: %s; during the outage: %s; after it: %s", grouped(before), grouped(during), grouped(after))
}

// grouped writes 10000 as 10,000.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
