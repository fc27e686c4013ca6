package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
)

// write prints a table for each group of cases.
func write(w io.Writer, p plan, results []turns) {
	fmt.Fprintf(w, "%s %s/%s, %d CPUs, medians of %d turns\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), p.turns)
	for i := 0; i < len(results); {
		j := i
		for j < len(results) && p.cases[j].group() == p.cases[i].group() {
			j++
		}
		writeGroup(w, p, p.cases[i:j], results[i:j])
		i = j
	}
}

func writeGroup(w io.Writer, p plan, cases []uploads, results []turns) {
	fmt.Fprintf(w, "\n| %s |", cases[0].group())
	for _, u := range cases {
		fmt.Fprintf(w, " %s |", u.column())
	}
	fmt.Fprintf(w, "\n|---%s|\n", strings.Repeat("|---", len(cases)))
	line := func(title string, cell func(u uploads, t turns) string) {
		cells := make([]string, len(cases))
		for i, u := range cases {
			cells[i] = cell(u, results[i])
		}
		fmt.Fprintf(w, "| %s | %s |\n", title, strings.Join(cells, " | "))
	}
	line("the base, MiB/s", func(u uploads, t turns) string {
		return fmt.Sprintf("%.0f", middle(each(t[kindBase], func(t turn) float64 { return float64(u.bytes(p)) / mib / t.Seconds })))
	})
	others := p.kinds(cases[0])[1:]
	for _, kind := range others {
		line(kind+": throughput, of the base's", func(_ uploads, t turns) string { return ratio(t, kind, kindBase) })
	}
	for _, kind := range others[1:] {
		line("auth: throughput, of "+kind, func(_ uploads, t turns) string { return ratio(t, kindAuth, kind) })
	}
	for _, kind := range others {
		line(kind+": allocated, of the body", func(u uploads, t turns) string {
			return fmt.Sprintf("%.4f", (total(t[kind], allocated)-total(t[kindBase], allocated))/float64(u.bytes(p)*int64(p.turns)))
		})
	}
	for _, kind := range append([]string{kindBase}, others...) {
		line(kind+": GC cycles per GiB", func(u uploads, t turns) string {
			return fmt.Sprintf("%.1f", total(t[kind], cycles)*1024*mib/float64(u.bytes(p)*int64(p.turns)))
		})
	}
	for _, kind := range append([]string{kindBase}, others...) {
		line(kind+": peak RSS, MiB", func(_ uploads, t turns) string { return fmt.Sprintf("%.0f", float64(t[kind][p.turns-1].Peak)/mib) })
	}
}

// bytes are those of a turn.
func (u uploads) bytes(p plan) int64 { return u.Size * int64(u.batch(p.quick)) }

func allocated(t turn) float64 { return float64(t.Allocated) }
func cycles(t turn) float64    { return float64(t.Cycles) }

func each(all []turn, value func(turn) float64) (values []float64) {
	for _, t := range all {
		values = append(values, value(t))
	}
	return values
}

func total(all []turn, value func(turn) float64) (sum float64) {
	for _, v := range each(all, value) {
		sum += v
	}
	return sum
}

// ratio is how fast one kind is in relation to another.
func ratio(t turns, kind, other string) string {
	var ratios []float64
	for i := range t[kind] {
		ratios = append(ratios, t[other][i].Seconds/t[kind][i].Seconds)
	}
	return fmt.Sprintf("%.2f", middle(ratios))
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
