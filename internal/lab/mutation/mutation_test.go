package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// write makes a module with these files, and the working directory of the test.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const sample = `package sample

func (l *list) put(x int, _ ...string) (n int, err error) {
	if l.full && x > 0 {
		return 0, errFull
	}
	l.n, l.last = l.n+1, x
	go l.tell()
	switch {
	case x == 1:
		l.ones++
	}
	return max(l.n, 1), nil
}
`

func TestEachMutantIsNamedForWhatItChanges(t *testing.T) {
	write(t, map[string]string{"list.go": sample})
	s, err := mutate("list.go")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.functions[0].mutants {
		got = append(got, strings.TrimPrefix(m.id, "list.go list.put: "))
	}
	const want = `remove: l.n, l.last = l.n+1, x
remove: go l.tell()
remove: return max(l.n, 1), nil
true: l.full && x > 0
false: l.full && x > 0
without: l.full
without: x > 0
>=: x > 0
zero: errFull
remove l.n: l.n, l.last = l.n+1, x
remove l.last: l.n, l.last = l.n+1, x
-: l.n+1
wait: go l.tell()
remove: l.ones++
true: x == 1
false: x == 1
--: l.ones++
zero: max(l.n, 1)
swap: max(l.n, 1)`
	if got := strings.Join(got, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAFunctionCallsTheMutantThatIsSelected(t *testing.T) {
	write(t, map[string]string{"list.go": sample})
	s, err := mutate("list.go")
	if err != nil {
		t.Fatal(err)
	}
	m := s.functions[0].mutants[1]
	m.number = 7
	text, spans := s.instrument(func(other *mutant) bool { return other == m })
	for _, want := range []string{
		"func (l *list) put(x int, mutantArg2_0 ...string) (n int, err error) { if mutantNumber != 0 { switch mutantNumber { case 7: return l.mutant7(x, mutantArg2_0...); } }; \n",
		"func (l *list) mutant7(x int, _ ...string) (n int, err error) {\n",
		"if false { go l.tell() }",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	if len(spans) != 1 || spans[0].mutant != m || spans[0].first != 15 || spans[0].last != 26 {
		t.Errorf("got the spans %+v, want the copy in lines 15 to 26", spans)
	}
}

const limits = `package limits

func clip(n, most int) int {
	if n > most {
		n = most
	}
	return n
}

func unused(n int) int { return n + 1 }
`

const limitsTest = `package limits

import "testing"

func TestClip(t *testing.T) {
	for _, n := range []int{1, 5, 9} {
		if got := clip(n, 5); got > 5 || n < 5 && got != n {
			t.Errorf("got %d", got)
		}
	}
}
`

func TestAMutantSurvivesIfNoTestFails(t *testing.T) {
	write(t, map[string]string{"go.mod": "module limits\n\ngo 1.26\n", "limits.go": limits, "limits_test.go": limitsTest})
	s := &subject{dir: ".", tests: []string{"."}}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	o := &options{cache: filepath.Join(t.TempDir(), "cache"), limit: time.Minute, skip: regexp.MustCompile("^$")}
	for round := range 2 { // the second from the book
		got := make(map[string]string)
		err := try(s, o, func(*mutant) bool { return true }, func(m *mutant, outcome string) { got[m.id] = outcome })
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"limits.go clip: true: n > most":  "killed by TestClip",
			"limits.go clip: false: n > most": "killed by TestClip",
			"limits.go clip: >=: n > most":    survived, // equivalent
			"limits.go clip: zero: n":         "killed by TestClip",
			"limits.go unused: zero: n + 1":   survived,
			"limits.go unused: -: n + 1":      survived,
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("round %d: got %v, want %v", round, got, want)
		}
	}
}

func TestTestsThatFailWithoutAMutantAreAnErrorUnlessSkipped(t *testing.T) {
	broken := strings.Replace(limitsTest, "got > 5", "got > 4", 1)
	write(t, map[string]string{"go.mod": "module limits\n\ngo 1.26\n", "limits.go": limits, "limits_test.go": broken})
	s := &subject{dir: ".", tests: []string{"."}}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	for skip, want := range map[string]string{"^$": "TestClip of . fails without a mutant", "Clip": ""} {
		o := &options{limit: time.Minute, skip: regexp.MustCompile(skip)}
		err := try(s, o, func(*mutant) bool { return true }, func(*mutant, string) {})
		if got := fmt.Sprint(err); !strings.Contains(got, want) || (err == nil) != (want == "") {
			t.Errorf("without %s: got %v, want %q", skip, err, want)
		}
	}
}

func TestAnEquivalentNeedsAReasonAndAMutant(t *testing.T) {
	write(t, map[string]string{"list.go": sample, "equivalents.txt": `# Why.
list.go list.put: swap: max(l.n, 1)

list.go list.put: --: l.ones++
# Why.
list.go list.put: of old
`})
	s := &subject{dir: "."}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	named, err := readEquivalents("equivalents.txt", []*subject{s})
	if !named["list.go list.put: swap: max(l.n, 1)"] || err == nil {
		t.Errorf("got %v and %v, want the first named, and an error", named, err)
	}
	for _, want := range []string{"no reason for list.go list.put: --", "a mutant that is no more: list.go list.put: of old"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that has %q", err, want)
		}
	}
}

func TestTheEquivalentsOfThisModuleAreThere(t *testing.T) {
	t.Chdir("../../..")
	var out bytes.Buffer
	if err := run([]string{"-list", "-run", "^transport/auth.go Auth.again:"}, &out); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "\ntransport/auth.go Auth.again: remove: body.Close()\n") {
		t.Errorf("got %s, want the mutants of Auth.again", &out)
	}
}
