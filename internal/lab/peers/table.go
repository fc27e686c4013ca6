package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A report is what was measured, and how.
type report struct {
	scenarios []scenario
	peers     []peer
	results   results
	size      sizes
}

// write writes Markdown.
func (r report) write(w io.Writer) {
	fmt.Fprintf(w, "Measured %s, medians of %d rounds.\n", machine(), r.size.rounds)
	if r.size.quick {
		fmt.Fprint(w, "**Of a size for tests: the timings are worth nothing.**\n")
	}
	fmt.Fprintln(w)
	r.main(w)
	r.bodies(w)
	r.noise(w)
	r.notes(w)
}

// main writes a line for each measure, a column for each peer.
func (r report) main(w io.Writer) {
	title, versions := []string{""}, []string{"version"}
	for _, p := range r.peers {
		title, versions = append(title, p.name), append(versions, version(p.module))
	}
	rows := [][]string{versions}
	for _, s := range r.scenarios {
		if s.body != 0 {
			continue
		}
		all := r.medians(s)
		for _, l := range s.lines {
			row := []string{l.title}
			for _, p := range r.peers {
				row = append(row, r.cell(s, l, p, all))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		writeTable(w, title, rows)
	}
}

// bodies writes a line for each peer, a column for each measure, with all sizes in it.
func (r report) bodies(w io.Writer) {
	sized := slices.DeleteFunc(slices.Clone(r.scenarios), func(s scenario) bool { return s.body == 0 })
	if len(sized) == 0 {
		return
	}
	var names []string
	for _, s := range sized {
		names = append(names, unit(s.body))
	}
	title := []string{"bodies of " + strings.Join(names, " · ")}
	for _, l := range sized[0].lines {
		title = append(title, l.title)
	}
	var rows [][]string
	for _, p := range r.peers {
		row := []string{p.name}
		for i := range sized[0].lines {
			var cells []string
			for _, s := range sized {
				cells = append(cells, r.cell(s, s.lines[i], p, r.medians(s)))
			}
			row = append(row, join(cells))
		}
		rows = append(rows, row)
	}
	writeTable(w, title, rows)
}

// join writes cells as one, and those that are all alike once.
func join(cells []string) string {
	if len(slices.Compact(slices.Clone(cells))) == 1 {
		return cells[0]
	}
	return strings.Join(cells, " · ")
}

// noise tells what came of the base, measured as if it were a peer.
func (r report) noise(w io.Writer) {
	var cells []string
	for _, s := range r.scenarios {
		for _, l := range s.lines {
			if l.timed {
				cells = append(cells, s.name+" "+r.cell(s, l, bare, r.medians(s)))
			}
		}
	}
	if len(cells) > 0 {
		fmt.Fprintf(w, "The noise, as the base differs from itself: %s.\n\n", strings.Join(cells, ", "))
	}
}

// notes tell what is the same for all, and how each peer was set up.
func (r report) notes(w io.Writer) {
	fmt.Fprint(w, method)
	for _, p := range r.peers {
		fmt.Fprintf(w, "- %s: %s\n", p.name, p.setup)
	}
}

func (r report) medians(s scenario) medians {
	all := make(medians)
	for name, samples := range r.results[s.name] {
		all[name] = median(samples)
	}
	return all
}

func (r report) cell(s scenario, l line, p peer, all medians) string {
	for _, sample := range r.results[s.name][p.name] {
		if sample.words != "" {
			return sample.words
		}
	}
	return l.cell(all[p.name], all)
}

func writeTable(w io.Writer, title []string, rows [][]string) {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(title, " | "), strings.Repeat("---|", len(title)))
	for _, row := range rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprintln(w)
}

// method is what the numbers mean.
const method = `All but the accepted request are sent over loopback, to servers that have a process of their own, and each peer has its own servers. The base is an http.Client with an http.Transport whose requests
have a token in their header already. It is measured in turn with each. Where callers are many, they and the base share 256 connections. A token request takes
200 ms in the storm and for the first caller who gives up, 50 ms after a revocation. The callers of the outage rest for 20 ms after an error.

Bodies are sent from a heap of a few MiB and after a warm-up, without a collection in between. The rest is measured with a ballast of 256 MiB, but for
the line of the small heap, which has one of 4 MiB. GOGC is 100.

The request of the first lines is a GET with seven headers, over a base that answers at once and is sent no token by itself. Bodies are streams without GetBody whose length is
known. The server reads a body to its end before it judges the token. What is live is what collections in a row have left. For the
first byte, a body takes 200 ms to produce.

How each was set up:

`
