package docs_test

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
)

// Each block of Go code in a page names the file that it is taken from, in a
// comment above it. That file compiles, here or in the module in foreign.
var block = regexp.MustCompile("(?s)<!-- (\\S+\\.go) -->\n```go\n(.*?)```\n")

func TestCodeIsTakenFromFilesThatCompile(t *testing.T) {
	for _, page := range allPages(t) {
		text := pages.File(t, page)
		blocks := block.FindAllStringSubmatch(text, -1)
		if n := strings.Count(text, "```go\n"); n != len(blocks) {
			t.Errorf("%s: %d of %d blocks of Go code name their file", page, len(blocks), n)
		}
		for _, b := range blocks {
			if !strings.Contains(pages.OneLine(pages.File(t, b[1])), pages.OneLine(b[2])) {
				t.Errorf("%s: %s does not have this:\n%s", page, b[1], b[2])
			}
		}
	}
}

// A link is [text](path#anchor); text is the name of a test if it is in backquotes.
var link = regexp.MustCompile("\\[(`?)([^]]*?)`?\\]\\(([^)#:]*)(?:#([^)]*))?\\)")

// fenced is a block of code, whose brackets are no links.
var fenced = regexp.MustCompile("(?ms)^```.*?^```")

func TestLinksLeadSomewhere(t *testing.T) {
	tests := 0
	for _, page := range allPages(t) {
		for _, l := range link.FindAllStringSubmatch(fenced.ReplaceAllString(pages.File(t, page), ""), -1) {
			target := l[3]
			if target == "" {
				target = page
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if l[4] != "" && !anchors(pages.File(t, target))[l[4]] {
				t.Errorf("%s: %s has no heading #%s", page, target, l[4])
			}
			if l[1] == "" || !strings.HasSuffix(target, "_test.go") {
				continue
			}
			tests++
			if !strings.Contains(pages.File(t, target), "\nfunc "+l[2]+"(") {
				t.Errorf("%s: %s does not declare %s", page, target, l[2])
			}
		}
	}
	if tests == 0 {
		t.Error("no page names a test")
	}
}

func TestEachGuaranteeNamesItsTests(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^- (?:.|\n  )+`).FindAllString(pages.File(t, "guarantees.md"), -1)
	if len(lines) == 0 {
		t.Fatal("guarantees.md guarantees nothing")
	}
	for _, line := range lines {
		if !strings.Contains(line, "_test.go)") {
			t.Errorf("no test is named by: %s", line)
		}
	}
}

func TestTheReadingOrderHasEveryPage(t *testing.T) {
	order := pages.File(t, "README.md")
	for _, page := range allPages(t) {
		if page != "README.md" && !strings.Contains(order, "]("+page+")") {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

func TestThePictureIsWellFormed(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(pages.File(t, "how-it-works.svg")))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func allPages(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("*.md")
	if err != nil || len(all) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return all
}

// anchors are the names that GitHub gives to the headings of a page.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			all[slug(heading)] = true
		}
	}
	return all
}

func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
