package tokentripper_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// Others call these methods: fmt, encoders, errors, net/http and gRPC.
var calledByOthers = []string{"Format", "String", "MarshalText", "MarshalBinary", "UnmarshalText", "Error", "Unwrap",
	"RoundTrip", "GetRequestMetadata", "RequireTransportSecurity"}

// The names are compared as text, and those of types not at all: their members count.
func TestEachExportedNameIsInAnExample(t *testing.T) {
	exported, used := map[string]string{}, map[string]bool{}
	for _, file := range goFiles(t) {
		example := strings.HasSuffix(file, "example_test.go")
		if strings.HasPrefix(file, "internal") || strings.HasPrefix(file, "docs") || strings.HasSuffix(file, "_test.go") && !example {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !example {
			for _, name := range exportedNames(parsed) {
				exported[name.Name] = file
			}
			continue
		}
		for n := range ast.Preorder(parsed) {
			if name, ok := n.(*ast.Ident); ok {
				used[name.Name] = true
			}
		}
	}
	for name, file := range exported {
		if !used[name] && !slices.Contains(calledByOthers, name) {
			t.Errorf("no example of a public package has %s of %s", name, file)
		}
	}
}

// exportedNames are those of functions, methods, fields, constants and variables.
func exportedNames(file *ast.File) (names []*ast.Ident) {
	ast.FileExports(file)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil || ast.IsExported(strings.TrimPrefix(types.ExprString(n.Recv.List[0].Type), "*")) {
				names = append(names, n.Name)
			}
			return false
		case *ast.TypeSpec:
			n.TypeParams = nil
		case *ast.ValueSpec:
			names = append(names, n.Names...)
		case *ast.Field:
			names = append(names, n.Names...)
		case *ast.FuncType:
			return false // its parameters
		}
		return true
	})
	return names
}
