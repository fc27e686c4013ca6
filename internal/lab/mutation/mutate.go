package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
)

// A function is one of a file, with all its mutants.
type function struct {
	name     string // such as Body.Hold
	from, to int    // in the file: the whole declaration
	decl     *ast.FuncDecl
	mutants  []*mutant
}

// A mutant is a small change of a function.
type mutant struct {
	id     string // stable while the function does not change: see [source.add]
	number int    // the value of MUTANT that selects it
	line   int
	column int
	edits  []edit
}

// An edit replaces a part of the file.
type edit struct {
	from, to int
	text     string
}

// A source is a file whose mutants are collected.
type source struct {
	path      string // below the root of the module
	text      []byte
	file      *ast.File
	fset      *token.FileSet
	functions []*function
	seen      map[string]int
	alone     map[*ast.BlockStmt]bool // their statement is not to be removed
	decided   map[ast.Expr]bool       // true and false were put in place of these, or will be
}

// mutate collects the mutants of all functions of a file.
func mutate(path string) (*source, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &source{path: path, text: text, fset: token.NewFileSet(), seen: make(map[string]int), alone: make(map[*ast.BlockStmt]bool), decided: make(map[ast.Expr]bool)}
	if s.file, err = parser.ParseFile(s.fset, path, text, parser.SkipObjectResolution); err != nil {
		return nil, err
	}
	for _, d := range s.file.Decls {
		decl, ok := d.(*ast.FuncDecl)
		if !ok || decl.Body == nil || decl.Name.Name == "init" {
			continue
		}
		s.functions = append(s.functions, &function{name: nameOf(decl), from: s.at(decl.Pos()), to: s.at(decl.End()), decl: decl})
		s.walk(decl.Body, decl.Type)
	}
	return s, nil
}

func nameOf(decl *ast.FuncDecl) string {
	if decl.Recv == nil {
		return decl.Name.Name
	}
	t := decl.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	if g, ok := t.(*ast.IndexExpr); ok {
		t = g.X
	}
	return fmt.Sprint(t) + "." + decl.Name.Name
}

func (s *source) at(p token.Pos) int { return s.fset.Position(p).Offset }

func (s *source) textOf(n ast.Node) string { return string(s.text[s.at(n.Pos()):s.at(n.End())]) }

// add notes a mutant of n. Its id is the file, the function, what was done and
// to what, and a number if there are several of these.
func (s *source) add(what string, n ast.Node, edits ...edit) {
	f := s.functions[len(s.functions)-1]
	text := strings.Join(strings.Fields(s.textOf(n)), " ")
	if r := []rune(text); len(r) > 60 {
		text = string(r[:60]) + "…"
	}
	id := fmt.Sprintf("%s %s: %s: %s", s.path, f.name, what, text)
	s.seen[id]++
	if n := s.seen[id]; n > 1 {
		id = fmt.Sprintf("%s #%d", id, n)
	}
	p := s.fset.Position(n.Pos())
	f.mutants = append(f.mutants, &mutant{id: id, line: p.Line, column: p.Column, edits: edits})
}

func (s *source) replace(n ast.Node, text string) edit {
	return edit{s.at(n.Pos()), s.at(n.End()), text}
}

// around puts text before and after n.
func (s *source) around(n ast.Node, before, after string) []edit {
	from, to := s.at(n.Pos()), s.at(n.End())
	return []edit{{from, from, before}, {to, to, after}}
}

// walk collects the mutants below n, which belongs to a function of type f.
func (s *source) walk(n ast.Node, f *ast.FuncType) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			s.walk(n.Body, n.Type)
			return false
		case *ast.BlockStmt:
			if !s.alone[n] {
				s.statements(n.List)
			}
		case *ast.IfStmt:
			s.condition(n.Cond)
			s.alone[n.Body] = len(n.Body.List) == 1 && n.Else == nil // then the condition's "false" removes it
			if b, ok := n.Else.(*ast.BlockStmt); ok && len(b.List) > 1 {
				s.add("empty", b, s.around(b, "{ if false ", "}")...)
			}
		case *ast.ForStmt:
			if n.Cond != nil {
				s.decided[n.Cond] = true
				s.add("false", n.Cond, s.around(n.Cond, "(", ") && false")...)
			}
		case *ast.RangeStmt:
			s.add("empty", n, s.around(n.Body, "{ if false ", "}")...)
		case *ast.SwitchStmt:
			s.cases(n)
		case *ast.TypeSwitchStmt:
			s.typeCases(n)
		case *ast.SelectStmt:
			s.communications(n)
		case *ast.GoStmt:
			s.add("wait", n, edit{s.at(n.Pos()), s.at(n.Call.Pos()), ""})
		case *ast.ReturnStmt:
			s.results(n, f)
		case *ast.AssignStmt:
			s.assignment(n)
		case *ast.IncDecStmt:
			s.swap(n, n.TokPos, n.Tok, map[token.Token]string{token.INC: "--", token.DEC: "++"})
		case *ast.BranchStmt:
			s.swap(n, n.TokPos, n.Tok, map[token.Token]string{token.BREAK: "continue", token.CONTINUE: "break"})
		case *ast.BinaryExpr:
			s.binary(n)
		case *ast.UnaryExpr:
			if n.Op == token.NOT && !s.decided[n] {
				s.add("negate", n, edit{s.at(n.Pos()), s.at(n.X.Pos()), ""})
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "min" || f.Name == "max") {
				s.add("swap", n, s.replace(f, map[string]string{"min": "max", "max": "min"}[f.Name]))
			}
		case *ast.Ident:
			if n.Name == "true" || n.Name == "false" {
				s.add("negate", n, s.around(n, "!", "")...)
			}
		case *ast.CompositeLit:
			s.elements(n)
		}
		return true
	})
}

// statements removes each statement of a list. "if false" keeps what it uses in
// use, so that more of these compile.
func (s *source) statements(list []ast.Stmt) {
	for _, stmt := range list {
		switch stmt := stmt.(type) {
		case *ast.ExprStmt:
			if locks(stmt.X) {
				continue
			}
		case *ast.DeferStmt:
			if locks(stmt.Call) {
				continue
			}
		case *ast.AssignStmt:
			if stmt.Tok == token.DEFINE {
				continue
			}
		case *ast.IncDecStmt, *ast.SendStmt, *ast.GoStmt, *ast.ReturnStmt, *ast.BranchStmt:
		default:
			continue
		}
		s.add("remove", stmt, s.around(stmt, "if false { ", " }")...)
	}
}

// locks reports whether x takes or releases a lock. Without one of these the
// process ends or hangs at once, which tells nothing about the tests.
func locks(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (f.Sel.Name == "Lock" || f.Sel.Name == "Unlock")
}

func (s *source) condition(cond ast.Expr) {
	s.decided[cond] = true
	s.add("true", cond, s.around(cond, "(", ") || true")...)
	s.add("false", cond, s.around(cond, "(", ") && false")...)
}

func (s *source) cases(n *ast.SwitchStmt) {
	for _, stmt := range n.Body.List {
		c := stmt.(*ast.CaseClause)
		s.statements(c.Body)
		switch {
		case n.Tag == nil && len(c.List) == 1:
			s.condition(c.List[0])
		case len(c.List) < 2:
			s.add("drop", c, s.replace(c, ""))
		default:
			for i, x := range c.List {
				s.add("drop", x, edit{s.at(x.Pos()), s.after(c.List, i), ""})
			}
		}
	}
}

// after returns where the element after the i-th of a list begins, or where the list ends.
func (s *source) after(list []ast.Expr, i int) int {
	if i+1 < len(list) {
		return s.at(list[i+1].Pos())
	}
	return s.at(list[i].End())
}

func (s *source) typeCases(n *ast.TypeSwitchStmt) {
	for _, stmt := range n.Body.List {
		c := stmt.(*ast.CaseClause)
		s.statements(c.Body)
		s.add("drop", c, s.replace(c, ""))
	}
}

func (s *source) communications(n *ast.SelectStmt) {
	for _, stmt := range n.Body.List {
		c := stmt.(*ast.CommClause)
		s.statements(c.Body)
		s.add("drop", c, s.replace(c, ""))
	}
}

// results returns something else: the zero value, or the other of true and false.
func (s *source) results(n *ast.ReturnStmt, f *ast.FuncType) {
	var types []ast.Expr
	if f.Results != nil {
		for _, field := range f.Results.List {
			types = append(types, slices.Repeat([]ast.Expr{field.Type}, max(1, len(field.Names)))...)
		}
	}
	if len(n.Results) != len(types) {
		return // bare, or a call that returns all of them
	}
	for i, x := range n.Results {
		switch t := s.textOf(types[i]); {
		case isZero(x):
		case t == "bool":
			if isComplex(x) {
				s.decided[x] = true
				s.add("negate", x, s.around(x, "!(", ")")...)
			}
		default:
			s.add("zero", x, append(s.around(n, "{ _ = "+s.textOf(x)+"; ", " }"), s.replace(x, "*new("+t+")"))...)
		}
	}
}

func isZero(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "nil"
	case *ast.BasicLit:
		return x.Value == "0" || x.Value == `""`
	case *ast.CompositeLit:
		return len(x.Elts) == 0
	}
	return false
}

// isComplex reports whether x has no negation that is collected elsewhere.
func isComplex(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name != "true" && x.Name != "false"
	case *ast.UnaryExpr:
		return x.Op != token.NOT
	}
	return true
}

// assignment removes each part of "a, b = x, y", and inverts "+=".
func (s *source) assignment(n *ast.AssignStmt) {
	if n.Tok == token.DEFINE {
		return
	}
	s.swap(n, n.TokPos, n.Tok, map[token.Token]string{token.ADD_ASSIGN: "-=", token.SUB_ASSIGN: "+=",
		token.MUL_ASSIGN: "/=", token.QUO_ASSIGN: "*=", token.OR_ASSIGN: "&=", token.AND_ASSIGN: "|="})
	if len(n.Lhs) < 2 {
		return
	}
	for i, x := range n.Lhs {
		if name, ok := x.(*ast.Ident); ok && name.Name == "_" {
			continue
		}
		if len(n.Rhs) < len(n.Lhs) {
			s.add("ignore "+s.textOf(x), n, s.replace(x, "_"))
			continue
		}
		left := edit{s.at(x.Pos()), s.after(n.Lhs, i), ""}
		right := edit{s.at(n.Rhs[i].Pos()), s.after(n.Rhs, i), ""}
		if last := len(n.Lhs) - 1; i == last {
			left.from, right.from = s.at(n.Lhs[last-1].End()), s.at(n.Rhs[last-1].End())
		}
		s.add("remove "+s.textOf(x), n, left, right)
	}
}

// swap replaces the operator of n at pos.
func (s *source) swap(n ast.Node, pos token.Pos, op token.Token, other map[token.Token]string) {
	if to, ok := other[op]; ok {
		s.add(to, n, edit{s.at(pos), s.at(pos) + len(op.String()), to})
	}
}

// binary leaves out an operand of && and ||, moves the boundary of a comparison,
// negates it, and inverts arithmetic.
func (s *source) binary(n *ast.BinaryExpr) {
	if neutral, logical := map[token.Token]string{token.LAND: "|| true", token.LOR: "&& false"}[n.Op]; logical {
		s.decided[n.X], s.decided[n.Y] = true, true
		s.add("without", n.X, s.around(n.X, "((", ") "+neutral+")")...)
		s.add("without", n.Y, s.around(n.Y, "((", ") "+neutral+")")...)
		return
	}
	s.swap(n, n.OpPos, n.Op, map[token.Token]string{token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">",
		token.ADD: "-", token.SUB: "+", token.MUL: "/", token.QUO: "*", token.REM: "*",
		token.SHL: ">>", token.SHR: "<<", token.AND: "|", token.OR: "&"})
	if !s.decided[n] {
		s.swap(n, n.OpPos, n.Op, map[token.Token]string{token.EQL: "!=", token.NEQ: "==",
			token.LSS: ">=", token.LEQ: ">", token.GTR: "<=", token.GEQ: "<"})
	}
}

// elements leaves out the fields of a struct.
func (s *source) elements(n *ast.CompositeLit) {
	for i, x := range n.Elts {
		kv, ok := x.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		to := s.after(n.Elts, i)
		if i+1 == len(n.Elts) {
			to = s.at(n.Rbrace)
		}
		s.add("leave out", kv, edit{s.at(kv.Pos()), to, ""})
	}
}
