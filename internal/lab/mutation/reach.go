package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A test is one test function of a package.
type test struct {
	Pkg   string
	Name  string
	Took  time.Duration
	Cover map[string][]block // by file, what it reaches
}

// A block is a part of a file that was reached: from line and column to line and column.
type block struct{ L0, C0, L1, C1 int }

func (b block) has(line, column int) bool {
	return (line > b.L0 || line == b.L0 && column >= b.C0) && (line < b.L1 || line == b.L1 && column < b.C1)
}

// reach runs each test of a package alone and notes what it reaches of the subject. It
// does not run those to skip, but returns what is known of them. The result is kept in
// cache for as long as the subject stays the same: a test that was changed meanwhile
// may reach more than it says, and then a mutant survives that should not. Remove the
// cache if in doubt.
func reach(pkg, cache string, s *subject, skip *regexp.Regexp) ([]*test, error) {
	dir, err := os.MkdirTemp("", "reach")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "cover.test")
	if out, err := goCommand("test", "-c", "-vet=off", "-cover", "-coverpkg=./"+s.dir, "-o", bin, "./"+pkg); err != nil {
		return nil, fmt.Errorf("the tests of %s do not compile: %s", pkg, out)
	}
	list := exec.Command(bin, "-test.list", ".")
	list.Dir = pkg
	names, err := list.Output()
	if err != nil {
		return nil, err
	}
	module, err := goCommand("list", "-m")
	if err != nil {
		return nil, fmt.Errorf("go list -m: %s", module)
	}
	path := filepath.Join(cache, fmt.Sprintf("reach-%x.json", sha256.Sum256([]byte(pkg+s.hash()))))
	var known, tests []*test
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &known) != nil {
		known = nil
	}
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "Benchmark") {
			continue
		}
		i := slices.IndexFunc(known, func(t *test) bool { return t.Name == name })
		if i >= 0 {
			tests = append(tests, known[i])
			continue
		}
		if skip.MatchString(name) {
			continue
		}
		t, err := runAlone(bin, pkg, name, filepath.Join(dir, "profile"), string(module)+"/")
		if err != nil {
			return nil, err
		}
		tests = append(tests, t)
	}
	data, err := json.Marshal(tests)
	if err != nil {
		return nil, err
	}
	return tests, os.WriteFile(path, data, 0o600)
}

func runAlone(bin, pkg, name, profile, module string) (*test, error) {
	cmd := exec.Command(bin, "-test.run", "^"+name+"$", "-test.coverprofile", profile)
	cmd.Dir = pkg
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s of %s fails without a mutant: %s", name, pkg, out)
	}
	t := &test{Pkg: pkg, Name: name, Took: time.Since(began), Cover: make(map[string][]block)}
	data, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		t.note(strings.TrimPrefix(strings.TrimSpace(string(line)), module))
	}
	return t, nil
}

// note takes a line of a cover profile: file:line.column,line.column statements count.
func (t *test) note(line string) {
	name, rest, _ := strings.Cut(line, ":")
	var b block
	var statements, count int
	n, _ := fmt.Sscanf(strings.NewReplacer(".", " ", ",", " ").Replace(rest), "%d %d %d %d %d %d", &b.L0, &b.C0, &b.L1, &b.C1, &statements, &count)
	if n == 6 && count > 0 {
		t.Cover[name] = append(t.Cover[name], b)
	}
}

// reaching returns the tests that run what the mutant changes. A case's
// condition belongs to no block of a profile: then the whole function counts.
func reaching(tests []*test, src *source, f *function, m *mutant) []*test {
	first, last := src.fset.Position(f.decl.Pos()).Line, src.fset.Position(f.decl.End()).Line
	reach := func(is func(block) bool) (found []*test) {
		for _, t := range tests {
			if slices.ContainsFunc(t.Cover[src.path], is) {
				found = append(found, t)
			}
		}
		return found
	}
	if exact := reach(func(b block) bool { return b.has(m.line, m.column) }); len(exact) > 0 {
		return exact
	}
	return reach(func(b block) bool { return first <= b.L0 && b.L1 <= last })
}
