// Mutation changes the library in small ways, one at a time, and expects the
// tests to fail: each change that they do not notice is a behaviour that no test
// proves, or one that makes no difference.
//
//	go run ./internal/lab/mutation            # all of it, for an hour or so
//	go run ./internal/lab/mutation -run 'tokensource/cache.go Cache.settle:'
//	go run ./internal/lab/mutation -sample 50 # of all mutants, others every day
//	go run ./internal/lab/mutation -list      # what there is to try, without trying
//
// It prints each mutant that survives, and a table. The exit status is 1 if one
// survived that equivalents.txt does not name with a reason, or if that names
// one which is no more.
//
// It is run in the root of the module. All mutants of a package are compiled
// into its tests at once, each as a copy of the function that it changes; the
// environment variable MUTANT selects one. Each test is run once alone, with a
// cover profile, so that a mutant need only meet the tests that reach it, the
// quick ones first. What was killed is remembered under -cache until its
// function changes.
//
// The tools that exist did not do. Gremlins 0.6 runs with Go 1.26, but removes
// no statements and no branches, takes the conditions of a case for not
// covered, and compiles and runs the whole tests of a package for each mutant:
// those of tokensource take a quarter of a minute. go-mutesting, which has such
// mutants, compiles for each of them, too, and has had no release since 2025.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	run    *regexp.Regexp
	skip   *regexp.Regexp
	sample int
	seed   uint64
	list   bool
	own    bool
	limit  time.Duration
	cache  string
}

func parse(args []string) (*options, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	var o options
	flags := flag.NewFlagSet("mutation", flag.ContinueOnError)
	pattern := flags.String("run", "", "try only mutants whose name matches this `regexp`")
	skip := flags.String("skip", "^$", "leave out tests whose name matches this `regexp`")
	flags.IntVar(&o.sample, "sample", 0, "try only `n` mutants, drawn by the seed")
	flags.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()/86400), "seed of the sample; another one each day, by default")
	flags.BoolVar(&o.list, "list", false, "list the mutants, some of which may not compile")
	flags.DurationVar(&o.limit, "limit", 5*time.Second, "leave out tests that take longer")
	flags.BoolVar(&o.own, "own", false, "try only the tests of a package itself, not those of packages that use it")
	flags.StringVar(&o.cache, "cache", filepath.Join(base, "tokentripper-mutation"), "`directory` for what is known from other runs; empty for none")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if o.skip, err = regexp.Compile(*skip); err != nil {
		return nil, err
	}
	o.run, err = regexp.Compile(*pattern)
	return &o, err
}

func run(args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	all := subjects()
	for _, s := range all {
		if o.own {
			s.tests = s.tests[:1]
		}
		if err := s.collect(); err != nil {
			return err
		}
	}
	equivalents, err := readEquivalents(equivalentsFile, all)
	if err != nil {
		return err
	}
	chosen := choose(all, o)
	if o.list {
		for _, s := range all {
			for _, m := range s.mutants() {
				if chosen[m] {
					fmt.Fprintln(out, m.id)
				}
			}
		}
		return nil
	}
	return tryAll(all, chosen, equivalents, o, out)
}

// choose returns the mutants to try.
func choose(all []*subject, o *options) map[*mutant]bool {
	var list []*mutant
	for _, s := range all {
		for _, m := range s.mutants() {
			if o.run.MatchString(m.id) {
				list = append(list, m)
			}
		}
	}
	if o.sample > 0 {
		rand.New(rand.NewPCG(o.seed, 0)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:min(o.sample, len(list))]
	}
	chosen := make(map[*mutant]bool)
	for _, m := range list {
		chosen[m] = true
	}
	return chosen
}

const equivalentsFile = "internal/lab/mutation/equivalents.txt"

// readEquivalents returns the mutants that are named as equivalent. In the file,
// a line that begins with # is the reason for those that follow it.
func readEquivalents(path string, all []*subject) (map[string]bool, error) {
	known := make(map[string]bool)
	for _, s := range all {
		for _, m := range s.mutants() {
			known[m.id] = true
		}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	named, reason := make(map[string]bool), false
	for scan := bufio.NewScanner(file); scan.Scan(); {
		line := scan.Text()
		switch {
		case line == "":
			reason = false
		case strings.HasPrefix(line, "#"):
			reason = true
		case !known[line]:
			err = errors.Join(err, fmt.Errorf("%s names a mutant that is no more: %s", path, line))
		case !reason:
			err = errors.Join(err, fmt.Errorf("%s gives no reason for %s", path, line))
		}
		named[line] = true
	}
	return named, err
}

// A tally counts the outcomes of a package.
type tally struct{ tried, killed, hung, named, lived int }

func (t *tally) count(outcome string, equivalent bool) {
	t.tried++
	switch {
	case outcome == survived && equivalent:
		t.named++
	case outcome == survived:
		t.lived++
	default:
		t.killed++
	}
	if outcome == hung {
		t.hung++
	}
}

// tryAll tries the chosen mutants, and prints those that survived, or that did
// not though they are named, and the table.
func tryAll(all []*subject, chosen map[*mutant]bool, named map[string]bool, o *options, out io.Writer) error {
	table := "\n| package | mutants | killed | of them by a timeout | equivalent | survived |\n|---|---|---|---|---|---|\n"
	lived := 0
	for _, s := range all {
		if !slices.ContainsFunc(s.mutants(), func(m *mutant) bool { return chosen[m] }) {
			continue
		}
		var t tally
		err := try(s, o, func(m *mutant) bool { return chosen[m] }, func(m *mutant, outcome string) {
			t.count(outcome, named[m.id])
			if (outcome == survived) != named[m.id] {
				fmt.Fprintf(out, "%s: %s (line %d)\n", outcome, m.id, m.line)
			}
		})
		if err != nil {
			return err
		}
		lived += t.lived
		table += fmt.Sprintf("| %s | %d | %d | %d | %d | %d |\n", s.dir, t.tried, t.killed, t.hung, t.named, t.lived)
	}
	fmt.Fprint(out, table)
	if lived > 0 {
		return fmt.Errorf("%d mutants survived", lived)
	}
	return nil
}
