package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A trial is a package with all its mutants compiled into its tests.
type trial struct {
	*subject
	dir   string // of the tests' binaries
	alive map[*mutant]bool
	tests [][]*test // of each package that tests the subject
	book  *book
}

// try tries the chosen mutants of a package and calls tell with the outcome of each.
func try(s *subject, o *options, chosen func(*mutant) bool, tell func(m *mutant, outcome string)) error {
	dir, err := os.MkdirTemp("", "mutation")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t := &trial{subject: s, dir: dir, book: openBook(cmp.Or(o.cache, dir))}
	if err := t.prepare(cmp.Or(o.cache, dir), o); err != nil {
		return err
	}
	for _, src := range s.sources {
		for _, f := range src.functions {
			for _, m := range f.mutants {
				if chosen(m) && t.alive[m] {
					tell(m, t.outcome(src, f, m))
				}
			}
		}
	}
	return nil
}

// prepare compiles, finds out which test reaches what, and makes sure that all
// tests pass without a mutant.
func (t *trial) prepare(cache string, o *options) (err error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	if t.alive, err = t.build(t.dir); err != nil {
		return err
	}
	for i, pkg := range t.subject.tests {
		tests, err := reach(pkg, cache, t.subject, o.skip)
		if err != nil {
			return err
		}
		tests = slices.DeleteFunc(tests, func(t *test) bool { return t.Took > o.limit || o.skip.MatchString(t.Name) })
		t.tests = append(t.tests, tests)
		if outcome := t.run(new(mutant), i, tests); outcome != survived {
			return fmt.Errorf("the tests of %s fail without a mutant: %s", pkg, outcome)
		}
	}
	return nil
}

// The outcomes of a mutant begin with these.
const (
	killed   = "killed"
	hung     = "hung"
	survived = "survived"
)

// outcome tells what becomes of a mutant, from the book if it was killed before
// and its function is still the same.
func (t *trial) outcome(src *source, f *function, m *mutant) string {
	hash := sha256.Sum256(src.text[f.from:f.to])
	name := fmt.Sprintf("%x %s", hash[:8], m.id)
	if outcome := t.book.read(name); outcome != "" {
		return outcome
	}
	outcome := t.meet(src, f, m)
	t.book.write(name, outcome)
	return outcome
}

// meet runs the tests that reach a mutant, until one fails: first those that
// take a second together, then the others.
func (t *trial) meet(src *source, f *function, m *mutant) string {
	slow := make([][]*test, len(t.tests))
	for i, tests := range t.tests {
		tests = reaching(tests, src, f, m)
		slices.SortFunc(tests, func(a, b *test) int { return cmp.Compare(a.Took, b.Took) })
		n, sum := 0, time.Duration(0)
		for n < len(tests) && sum+tests[n].Took < time.Second {
			sum += tests[n].Took
			n++
		}
		slow[i] = tests[n:]
		if outcome := t.run(m, i, tests[:n]); outcome != survived {
			return outcome
		}
	}
	for i, tests := range slow {
		if outcome := t.run(m, i, tests); outcome != survived {
			return outcome
		}
	}
	return survived
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// run runs tests of the i-th package with a mutant.
func (t *trial) run(m *mutant, i int, tests []*test) string {
	if len(tests) == 0 {
		return survived
	}
	var names []string
	limit := time.Duration(0)
	for _, t := range tests {
		names = append(names, t.Name)
		limit += t.Took
	}
	limit = max(10*time.Second, 5*limit)
	ctx, cancel := context.WithTimeout(context.Background(), limit+5*time.Second)
	defer cancel()
	// Some mutants would eat all memory.
	cmd := exec.CommandContext(ctx, "sh", "-c", `ulimit -v 8000000; exec "$@"`, "sh", binary(t.dir, i),
		"-test.failfast", "-test.timeout", limit.String(), "-test.run", "^("+strings.Join(names, "|")+")$")
	cmd.Dir = t.subject.tests[i]
	cmd.Env = append(os.Environ(), fmt.Sprintf("MUTANT=%d", m.number))
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return survived
	case ctx.Err() != nil || strings.Contains(string(out), "panic: test timed out"):
		return hung
	}
	if name := failed.FindSubmatch(out); name != nil {
		return killed + " by " + string(name[1])
	}
	return killed
}

// A book remembers outcomes, in a file.
type book struct {
	path   string
	killed map[string]string // by the function's hash and the mutant's id
}

func openBook(dir string) *book {
	b := &book{filepath.Join(dir, "outcomes"), make(map[string]string)}
	data, err := os.ReadFile(b.path)
	if err != nil {
		return b // an empty one
	}
	for scan := bufio.NewScanner(strings.NewReader(string(data))); scan.Scan(); {
		if name, outcome, ok := strings.Cut(scan.Text(), "\t"); ok && outcome != survived {
			b.killed[name] = outcome
		}
	}
	return b
}

func (b *book) read(name string) string { return b.killed[name] }

// write adds to the file; what cannot be written is tried again another time.
func (b *book) write(name, outcome string) {
	file, err := os.OpenFile(b.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprintf(file, "%s\t%s\n", name, outcome)
}
