package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// numberFile declares the variable that selects a mutant.
const numberFile = `package %s

import (
	"os"
	"strconv"
)

var mutantNumber, _ = strconv.Atoi(os.Getenv("MUTANT"))
`

// A span is the lines of a mutant's copy.
type span struct {
	first, last int
	mutant      *mutant
}

// instrument returns the file with a copy of the function for each mutant, which
// the function calls if it is selected: so all mutants are compiled at once.
// The lines of the functions themselves stay where they are.
func (s *source) instrument(alive func(*mutant) bool) ([]byte, []span) {
	var out, copies bytes.Buffer
	var owners []*mutant
	rest := 0
	for _, f := range s.functions {
		out.Write(s.text[rest:f.from])
		edits, call := s.named(f)
		var cases strings.Builder
		for _, m := range f.mutants {
			if !alive(m) {
				continue
			}
			name := fmt.Sprintf("mutant%d", m.number)
			fmt.Fprintf(&cases, "case %d: %s; ", m.number, fmt.Sprintf(call, name))
			name = "func " + s.receiver(f) + name
			signature := edit{f.from, s.at(f.decl.Name.End()), name}
			fmt.Fprintf(&copies, "%s\n\x00", apply(s.text, f.from, f.to, append([]edit{signature}, m.edits...)))
			owners = append(owners, m)
		}
		if cases.Len() > 0 {
			begin := s.at(f.decl.Body.Lbrace) + 1
			edits = append(edits, edit{begin, begin, " if mutantNumber != 0 { switch mutantNumber { " + cases.String() + "} }; "})
		}
		out.Write(apply(s.text, f.from, f.to, edits))
		rest = f.to
	}
	out.Write(s.text[rest:])
	var spans []span
	line := bytes.Count(out.Bytes(), []byte("\n")) + 1
	for i, text := range bytes.Split(bytes.TrimSuffix(copies.Bytes(), []byte{0}), []byte{0}) {
		if len(owners) == 0 {
			break
		}
		end := line + bytes.Count(text, []byte("\n"))
		spans = append(spans, span{line, end - 1, owners[i]})
		out.Write(text)
		line = end
	}
	return out.Bytes(), spans
}

func (s *source) receiver(f *function) string {
	if f.decl.Recv == nil {
		return ""
	}
	return s.textOf(f.decl.Recv) + " "
}

// named returns the edits that name the receiver and all parameters of f, and
// the statement that calls another function with them.
func (s *source) named(f *function) (edits []edit, call string) {
	var args []string
	name := func(field *ast.Field, n int) string {
		var names []string
		for i, id := range field.Names {
			text := id.Name
			if text == "_" {
				text = fmt.Sprintf("mutantArg%d_%d", n, i)
				edits = append(edits, s.replace(id, text))
			}
			names = append(names, text)
		}
		if len(names) == 0 {
			names = []string{fmt.Sprintf("mutantArg%d", n)}
			at := s.at(field.Type.Pos())
			edits = append(edits, edit{at, at, names[0] + " "})
		}
		if _, variadic := field.Type.(*ast.Ellipsis); variadic {
			names[0] += "..."
		}
		return strings.Join(names, ", ")
	}
	call = "%s"
	if f.decl.Recv != nil {
		call = name(f.decl.Recv.List[0], 0) + ".%s"
	}
	for i, field := range f.decl.Type.Params.List {
		args = append(args, name(field, i+1))
	}
	call += "(" + strings.Join(args, ", ") + ")"
	if f.decl.Type.Results != nil {
		return edits, "return " + call
	}
	return edits, call + "; return"
}

// apply returns the text from one offset to another, edited.
func apply(text []byte, from, to int, edits []edit) []byte {
	edits = slices.Clone(edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return a.from - b.from })
	var out bytes.Buffer
	for _, e := range edits {
		out.Write(text[from:e.from])
		out.WriteString(e.text)
		from = e.to
	}
	out.Write(text[from:to])
	return out.Bytes()
}
