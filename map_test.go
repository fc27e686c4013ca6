package tokentripper_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
)

// The library's layers, from the outside in. A package imports from its own and
// from those behind it.
var layers = []string{"tokensource/storetest", "transport", "internal/guard", "tokensource", "internal"}

// layer is a package's place among these, -1 for what surrounds the library.
func layer(dir string) int {
	if strings.HasPrefix(dir, "internal/lab") || strings.HasPrefix(dir, "internal/demo") {
		return -1
	}
	for i, name := range layers {
		if strings.HasPrefix(dir+"/", name+"/") {
			return i
		}
	}
	return -1
}

func TestTheLibraryDoesNotImportTheWorkshop(t *testing.T) {
	for _, file := range goFiles(t) {
		own := layer(filepath.ToSlash(filepath.Dir(file)))
		if own < 0 || strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			dir, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), "github.com/tokentripper/tokentripper/")
			if ours && layer(dir) < own {
				t.Errorf("%s imports %s", file, dir)
			}
		}
	}
}

func TestTheMapNamesEachPackage(t *testing.T) {
	module, workshop := pages.File(t, "doc.go"), pages.File(t, "internal/lab/README.md")
	for _, file := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if part, ok := strings.CutPrefix(dir, "internal/lab/"); ok {
			part, _, _ = strings.Cut(part, "/")
			if !strings.Contains(workshop, "`"+part+"`") {
				t.Errorf("internal/lab/README.md does not name %s", part)
			}
		} else if dir != "." && !strings.Contains(module, dir) {
			t.Errorf("doc.go does not name %s", dir)
		}
	}
}

func goFiles(t *testing.T) (all []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".go" {
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("no files of Go: %v", err)
	}
	return all
}
