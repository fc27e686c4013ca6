package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tokentripper/tokentripper/tokensource"
)

// causes are those of a refresh, each with what it means.
var causes = []struct {
	cause   tokensource.Cause
	meaning string
}{
	{tokensource.Expired, "there was no good token: all who needed one waited"},
	{tokensource.Early, "the token was still good: nobody waited"},
	{tokensource.Refused, "the server refused the token"},
}

// table writes the numbers for a person to read.
func table(out io.Writer, s summary) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, n int, note string) { fmt.Fprintf(w, "%s\t%7d\t%s\n", name, n, note) }
	row("requests", s.requests, fmt.Sprintf("by %d clients in %.1f s%s", s.clients, s.length.Seconds(), s.answers()))
	row("refused", s.refused, "the server did not take the token")
	row("replayed", s.replayed, "sent once more, with the next token")
	row("lost", s.lost, s.worst())
	if s.checked > 0 {
		row("bodies verified", s.whole, fmt.Sprintf("of %d: what arrived has the SHA-256 of what was sent", s.checked))
	}
	row("token requests", s.tokenRequests, "at the token endpoint")
	w.Flush()
	fmt.Fprintln(out)
	fmt.Fprintf(w, "refreshes\tgood\tfailed\twaited for\t\n")
	for _, c := range causes {
		t := s.tallies[c.cause]
		fmt.Fprintf(w, "  %s\t%4d\t%6d\t%10d\t%s\n", c.cause, t.good, t.failed, t.waiters, c.meaning)
	}
	w.Flush()
}

// answers tells the statuses, unless each request was answered 200.
func (s *summary) answers() string {
	if s.statuses[200] == s.requests {
		return ""
	}
	var b strings.Builder
	for _, status := range slices.Sorted(maps.Keys(s.statuses)) {
		fmt.Fprintf(&b, ", %d answered %d", s.statuses[status], status)
	}
	return b.String()
}

// worst tells the most frequent reason of a loss.
func (s *summary) worst() string {
	if s.lost == 0 {
		return "without a good answer"
	}
	reasons := slices.SortedFunc(maps.Keys(s.reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.reasons[b], s.reasons[a]), cmp.Compare(a, b))
	})
	return fmt.Sprintf("%d times: %s", s.reasons[reasons[0]], reasons[0])
}
