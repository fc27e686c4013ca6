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
	"strconv"
	"strings"
)

// A subject is a package whose mutants are tried.
type subject struct {
	dir     string   // below the root of the module
	tests   []string // the packages whose tests are to find them, its own first
	sources []*source
}

// subjects are what this command is for.
func subjects() []*subject {
	return []*subject{
		{dir: "internal/replay", tests: []string{"internal/replay", "transport"}},
		{dir: "internal/guard", tests: []string{"transport"}},
		{dir: "transport", tests: []string{"transport", "."}},
		{dir: "internal/lineage", tests: []string{"internal/lineage", "tokensource"}},
		{dir: "tokensource", tests: []string{"tokensource", "transport", "."}},
	}
}

// collect reads the package and numbers its mutants.
func (s *subject) collect() error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*.go"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		src, err := mutate(path)
		if err != nil {
			return err
		}
		s.sources = append(s.sources, src)
	}
	for i, m := range s.mutants() {
		m.number = i + 1
	}
	return nil
}

func (s *subject) mutants() (all []*mutant) {
	for _, src := range s.sources {
		for _, f := range src.functions {
			all = append(all, f.mutants...)
		}
	}
	return all
}

// hash tells whether the package is still the same.
func (s *subject) hash() string {
	h := sha256.New()
	for _, src := range s.sources {
		h.Write(src.text)
	}
	return fmt.Sprintf("%s %x", s.dir, h.Sum(nil))
}

// build compiles the tests with all mutants in them, into dir. It returns the
// mutants that compile.
func (s *subject) build(dir string) (map[*mutant]bool, error) {
	alive := make(map[*mutant]bool)
	for _, m := range s.mutants() {
		alive[m] = true
	}
	overlay := filepath.Join(dir, "overlay.json")
	for {
		spans, err := s.overlay(overlay, dir, alive)
		if err != nil {
			return nil, err
		}
		out, err := goCommand("build", "-gcflags=-e", "-overlay", overlay, "./"+s.dir)
		if err == nil {
			break
		}
		if !bury(alive, spans, out) {
			return nil, fmt.Errorf("%s does not compile: %s", s.dir, out)
		}
	}
	for i, pkg := range s.tests {
		if out, err := goCommand("test", "-c", "-vet=off", "-overlay", overlay, "-o", binary(dir, i), "./"+pkg); err != nil {
			return nil, fmt.Errorf("the tests of %s do not compile: %s", pkg, out)
		}
	}
	return alive, nil
}

func binary(dir string, i int) string { return filepath.Join(dir, strconv.Itoa(i)+".test") }

// overlay writes the instrumented files and the list of them.
func (s *subject) overlay(path, dir string, alive map[*mutant]bool) (map[string][]span, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	files, spans := make(map[string]string), make(map[string][]span)
	put := func(name string, text []byte) error {
		files[filepath.Join(root, s.dir, name)] = filepath.Join(dir, name)
		return os.WriteFile(filepath.Join(dir, name), text, 0o600)
	}
	for _, src := range s.sources {
		name := filepath.Base(src.path)
		var text []byte
		text, spans[name] = src.instrument(func(m *mutant) bool { return alive[m] })
		if err := put(name, text); err != nil {
			return nil, err
		}
	}
	if err := put("mutantnumber.go", fmt.Appendf(nil, numberFile, s.sources[0].file.Name.Name)); err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		return nil, err
	}
	return spans, os.WriteFile(path, list, 0o600)
}

var compileError = regexp.MustCompile(`(?m)^\S*?([^\s/\\]+\.go):(\d+):\d+: `)

// bury takes the mutants out that the compiler complains of. It reports false
// if it complains of something else.
func bury(alive map[*mutant]bool, spans map[string][]span, output []byte) bool {
	before := len(alive)
	for _, e := range compileError.FindAllSubmatch(output, -1) {
		line, _ := strconv.Atoi(string(e[2]))
		for _, s := range spans[string(e[1])] {
			if s.first <= line && line <= s.last {
				delete(alive, s.mutant)
			}
		}
	}
	return len(alive) < before
}

// goCommand runs the go command; an error's text is in the output.
func goCommand(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	out, err := cmd.CombinedOutput()
	return bytes.TrimSpace(out), err
}
