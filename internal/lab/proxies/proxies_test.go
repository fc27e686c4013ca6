package proxies_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var (
	names   = flag.String("servers", "nginx,haproxy,squid", "which servers, or all")
	uploads = flag.Int("uploads", 150, "how many uploads to each server")
	callers = flag.Int("callers", 1, "how many callers of one http.Transport at a time")
	expect  = flag.Duration("expect", -1, "every upload sends Expect: 100-continue and waits so long; negative: none does")
)

func TestRefusedUploadsSucceed(t *testing.T) {
	var rows []string
	for _, s := range chosen(t) {
		t.Run(strings.ToLower(s.name), func(t *testing.T) { rows = append(rows, s.test(t)...) })
	}
	fmt.Print(strings.Join(rows, ""))
}

func chosen(t *testing.T) (some []server) {
	if *names == "all" {
		return servers
	}
	for name := range strings.SplitSeq(*names, ",") {
		i := slices.IndexFunc(servers, func(s server) bool { return strings.EqualFold(s.name, name) })
		if i < 0 {
			t.Fatalf("no server %q", name)
		}
		some = append(some, servers[i])
	}
	return some
}

// test sends uploads each way, and returns the rows of the table.
func (s server) test(t *testing.T) (rows []string) {
	at := s.start(t, startAPI(t))
	page, err := os.ReadFile("../../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	n := *uploads / s.fronts(at)
	for _, w := range s.ways {
		became := w.test(t, at, n)
		if became == "" { // not with this -run
			continue
		}
		does := fmt.Sprintf("| %s | %s | %s |", w.who, w.observed(t, at), became)
		if !strings.Contains(string(page), does) {
			t.Errorf("docs/proxies.md has no row with %s", does)
		}
		rows = append(rows, fmt.Sprintln("|", s.name, "|", s.installed(t), does, cmp.Or(w.advice, "–"), "|"))
	}
	return rows
}

// observed is what the server does with a refusal before the body. Whether it
// loses one is a race.
func (w way) observed(t *testing.T, at *site) string {
	if slices.Contains(w.points, before) {
		return fmt.Sprintf("401 or %d", w.instead)
	}
	return observe(t, at.addrs["http "+w.listens], w.client == withExpect)
}

func (s server) fronts(at *site) (n int) {
	for _, w := range s.ways {
		n += len(w.protocols(at))
	}
	return n
}

// Protocols.
const (
	clear   = "HTTP1"
	overTLS = "TLS"
	http2   = "HTTP2"
)

func (w way) protocols(at *site) []string {
	switch {
	case at.addrs["https "+w.listens] == "":
		return []string{clear}
	case w.without == noHTTP2:
		return []string{clear, overTLS}
	}
	return []string{clear, overTLS, http2}
}

// test sends so many uploads by each protocol, and says what became of them.
func (w way) test(t *testing.T, at *site, n int) string {
	var all []string
	for _, protocol := range w.protocols(at) {
		t.Run(fmt.Sprint(w.listens, w.client, "-", protocol), func(t *testing.T) {
			url := "http://" + at.addrs["http "+w.listens]
			if protocol != clear {
				url = "https://" + at.addrs["https "+w.listens]
			}
			tr := &trial{t: t, way: w, client: newClient(t, url, w.client, protocol == http2)}
			all = append(all, tr.run(n))
		})
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}
