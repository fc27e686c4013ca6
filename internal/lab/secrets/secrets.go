// Package secrets finds the types of a package that show a secret when a program
// prints, logs or marshals them.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

// Hush is in every secret of a test, whatever the secret is for.
const Hush = "hush-hush"

// CheckTypes checks the values of a table, which fill returns within a bubble. Each
// exported type of the package in the current directory needs values.
func CheckTypes(t *testing.T, fill func(*testing.T) map[string][]any) {
	synctest.Test(t, func(t *testing.T) {
		table := fill(t)
		synctest.Wait() // no refresh is in flight while fmt reads a Cache
		for _, name := range exportedTypes(t) {
			if len(table[name]) == 0 {
				t.Errorf("%s has no row in the table: can it hold a secret?", name)
			}
			for _, v := range table[name] {
				Check(t, name, v)
			}
		}
	})
}

// Check fails the test if v, of the type that name says, shows Hush.
func Check(t *testing.T, name string, v any) {
	t.Helper()
	for how, text := range shown(v) {
		if Shows(text) {
			t.Errorf("%s, %T by %s: the secret shows: %.300q", name, v, how, text)
			return
		}
	}
}

// Shows reports whether text has Hush, in clear or as %x, %d, %o, %b, %U, %c or base64 write it.
func Shows(text string) bool {
	dec := strings.Trim(fmt.Sprintf("%d", []byte(Hush[:4])), "[]")
	b64 := base64.StdEncoding.EncodeToString([]byte(Hush))
	return strings.Contains(text, Hush) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", Hush)) ||
		strings.Contains(text, dec) || strings.Contains(text, b64)
}

// shown is all that can be printed, logged or marshalled of v. Not %p and %w: fmt bypasses methods there.
func shown(v any) map[string]string {
	all := map[string]string{}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %o %O %t %e %g %b %c %U %T %+q %#x %#q %20s %! extra") {
		all[verb] = fmt.Sprintf(verb, v)
	}
	all["Errorf"] = fmt.Errorf("because %v", v).Error()
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	all["slog"] = b.String()
	j, err := json.Marshal(v)
	all["json"] = fmt.Sprint(string(j), err)
	x, err := xml.Marshal(v)
	all["xml"] = fmt.Sprint(string(x), err)
	b.Reset()
	err = gob.NewEncoder(&b).Encode(v)
	all["gob"] = fmt.Sprint(b.String(), err)
	if err, ok := v.(error); ok {
		for ; err != nil; err = errors.Unwrap(err) {
			all["error"] += err.Error()
		}
	}
	return all
}

// exportedTypes are those of the package in the current directory.
func exportedTypes(t *testing.T) (names []string) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				names = append(names, spec.Name.Name)
			}
			_, inFunc := n.(*ast.FuncDecl)
			return !inFunc
		})
	}
	return names
}
