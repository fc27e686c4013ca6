package tokentripper_test

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
)

// A snippet is a block of Go code in the README and the example that it is taken
// from, which a comment above the block names; its file too, if that is not
// example_test.go.
type snippet struct{ file, example, code string }

func TestREADMECodeIsTakenFromTheExamples(t *testing.T) {
	for _, s := range readmeSnippets(t) {
		code := s.code
		if strings.HasPrefix(code, "package main\n") {
			code = mainBody(t, code)
		}
		example := between(pages.File(t, s.file), "func "+s.example+"() {\n", "\n}\n")
		if example == "" || !strings.Contains(pages.OneLine(example), pages.OneLine(code)) {
			t.Errorf("%s of %s does not have this of README.md:\n%s", s.example, s.file, code)
		}
	}
}

func TestREADMEProgramRunsAsItIs(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	program := readmeSnippets(t)[0]
	path := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(path, []byte(program.code), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), "go", "run", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	example := between(pages.File(t, "example_test.go"), "func "+program.example+"() {\n", "\n}\n")
	_, want, _ := strings.Cut(example, "// Output:\n")
	want = strings.ReplaceAll(want, "//", "")
	if got := pages.OneLine(string(output)); got != pages.OneLine(want) {
		t.Errorf("got %s, want %s", got, pages.OneLine(want))
	}
}

func TestDocumentsLinkToFilesThatExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	inRoot, _ := filepath.Glob("*.md")
	inLab, _ := filepath.Glob("internal/lab/*/README.md")
	for _, name := range append(append(inRoot, inLab...), "internal/lab/README.md") {
		for _, l := range link.FindAllStringSubmatch(pages.File(t, name), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), l[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func readmeSnippets(t *testing.T) (all []snippet) {
	t.Helper()
	readme := pages.File(t, "README.md")
	block := regexp.MustCompile("(?s)<!-- (?:(\\S+) )?(Example\\w+) -->\n```go\n(.*?)```\n")
	for _, m := range block.FindAllStringSubmatch(readme, -1) {
		all = append(all, snippet{cmp.Or(m[1], "example_test.go"), m[2], m[3]})
	}
	if n := strings.Count(readme, "```go\n"); n != len(all) || n == 0 {
		t.Fatalf("%d of the %d blocks of Go code in README.md name their example", len(all), n)
	}
	return all
}

// mainBody returns what a program has between the braces of main.
func mainBody(t *testing.T, program string) string {
	t.Helper()
	body := between(program, "\nfunc main() {\n", "\n}\n")
	if body == "" {
		t.Fatalf("no func main in:\n%s", program)
	}
	return body
}

// between returns what stands between start and the next end, or the empty string.
func between(s, start, end string) string {
	_, after, _ := strings.Cut(s, start)
	inside, _, found := strings.Cut(after, end)
	if !found {
		return ""
	}
	return inside
}
