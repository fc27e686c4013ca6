package transport_test

import (
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

// A reading is a second parser of WWW-Authenticate, by other means than ours:
// the ABNF of RFC 9110, as a recipient must take it, rule by rule as regular
// expressions, each of which sees the whole rest of the line. It knows no line
// that breaks the grammar.
type reading struct{ challenge, param *regexp.Regexp }

// readGrammar returns the reading that prefers long matches, or short ones by
// the flag U: if a line could be read in two ways, the two would differ.
func readGrammar(flags string) reading {
	const (
		ows      = `[ \t]*`
		token    = "[-!#$%&'*+.^_`|~0-9A-Za-z]+"
		token68  = `[-._~+/0-9A-Za-z]+=*`
		qdtext   = `[^\x00-\x08\x0a-\x1f"\\\x7f]` // the bytes of obs-text included
		qpair    = `\\[^\x00-\x08\x0a-\x1f\x7f]`
		quoted   = `"(?:` + qdtext + `|` + qpair + `)*"`
		param    = token + ows + `=` + ows + `(?:` + token + `|` + quoted + `)`
		params   = `(?:` + param + `)?(?:` + ows + `,` + ows + `(?:` + param + `)?)*`
		credit   = token + `(?: +(?:` + token68 + `|` + params + `))?`
		first    = `(` + token + `)(?: +(?:(` + token68 + `)|(` + params + `)))?`
		one      = `(` + token + `)` + ows + `=` + ows + `(?:(` + token + `)|"((?:` + qdtext + `|` + qpair + `)*)")`
		elements = `((?:` + ows + `,` + ows + `(?:` + credit + `)?)*)`
		more     = `((?:` + ows + `,` + ows + `(?:` + param + `)?)*)`
	)
	return reading{
		challenge: regexp.MustCompile(`^(?` + flags + `:` + ows + `(?:` + first + `)?` + elements + ows + `)$`),
		param:     regexp.MustCompile(`^(?` + flags + `:(?:` + one + `)?` + more + `)$`),
	}
}

var quotedPair = regexp.MustCompile(`(?s)\\(.)`)

// challenges returns what the line says, false if it breaks the grammar.
func (g reading) challenges(line string) (all challenges, ok bool) {
	for rest := line; rest != ""; {
		m := g.challenge.FindStringSubmatch(rest)
		if m == nil {
			return nil, false
		}
		if m[1] != "" {
			all = append(all, transport.Challenge{Scheme: m[1], Token68: m[2], Params: g.params(m[3])})
		}
		rest = strings.TrimLeft(m[4], " \t,")
	}
	return all, true
}

func (g reading) params(list string) params {
	p := params{}
	for list != "" {
		m := g.param.FindStringSubmatch(list)
		if _, known := p[strings.ToLower(m[1])]; m[1] != "" && !known {
			p[strings.ToLower(m[1])] = m[2] + quotedPair.ReplaceAllString(m[3], "$1")
		}
		list = strings.TrimLeft(m[4], " \t,")
	}
	if len(p) == 0 {
		return nil
	}
	return p
}

var longest, shortest = readGrammar("s"), readGrammar("sU")

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// asWritten writes challenges as the grammar has them.
func asWritten(all challenges) string {
	var list []string
	for _, c := range all {
		var params []string
		for _, name := range slices.Sorted(maps.Keys(c.Params)) { // a fuzzer wants the same way each time
			params = append(params, name+`="`+escaper.Replace(c.Params[name])+`"`)
		}
		list = append(list, strings.TrimRight(c.Scheme+" "+c.Token68+strings.Join(params, ", "), " "))
	}
	return strings.Join(list, ", ")
}

var isToken, isToken68 = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"), regexp.MustCompile(`^[-._~+/0-9A-Za-z]+=*$`)

// wantWellFormed checks what is true of any challenge, whatever the line was.
func wantWellFormed(t *testing.T, line string, c transport.Challenge) {
	t.Helper()
	if !isToken.MatchString(c.Scheme) || c.Token68 != "" && (c.Params != nil || !isToken68.MatchString(c.Token68)) {
		t.Fatalf("%q: got %q, want a scheme that is a token, and a token68 or parameters", line, c)
	}
	for name, value := range c.Params {
		if !isToken.MatchString(name) || name != strings.ToLower(name) || !within(value, line) {
			t.Fatalf("%q: got %q=%q, want a token in lower case, and a value of the line", line, name, value)
		}
	}
}

// within reports whether s is made of bytes of line in their order.
func within(s, line string) bool {
	for i := range len(s) {
		n := strings.IndexByte(line, s[i])
		if n < 0 {
			return false
		}
		line = line[n+1:]
	}
	return true
}

// FuzzChallenges compares Challenges with a second reading of the grammar. A
// line that follows the grammar must be read as it says. Challenges also takes
// tabs for spaces after a scheme, parameters without a value, control
// characters in quoted-strings and ones that do not end, and passes over list
// items that are nothing: of those lines it checks that what is read is well
// formed, is read again as the same, and hides no challenge beside them.
func FuzzChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="a", error=b`, `Bearer realm=, x`, `a="`, `"\`, "\x00\xff,=", `a b= c`, `A = b`} {
		f.Add(s)
	}
	for _, line := range hostileLines() {
		f.Add(line[:800])
	}
	f.Fuzz(func(t *testing.T, line string) {
		if len(line) > 900 {
			return // longer ones take long, and may have more than is read
		}
		got := challenged(line)
		want, ok := longest.challenges(line)
		if ok && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q:\n got %q\nwant %q", line, got, want)
		}
		if other, _ := shortest.challenges(line); ok && !reflect.DeepEqual(other, want) {
			t.Fatalf("%q: the grammar says both\n%q and\n%q", line, want, other)
		}
		for _, c := range got {
			wantWellFormed(t, line, c)
		}
		if again := challenged(asWritten(got)); !reflect.DeepEqual(again, got) {
			t.Fatalf("%q:\n got %q\nthen %q, from %q", line, got, again, asWritten(got))
		}
		wantHidesNone(t, line, got)
		wantCurable(t, line, got)
	})
}

// wantHidesNone checks that neither a line nor a list item hides a challenge beside it.
func wantHidesNone(t *testing.T, line string, got challenges) {
	t.Helper()
	good := transport.Challenge{Scheme: "Good", Params: params{"a": "b"}}
	if beside := challenged("Good a=b", line, "Good a=b"); !reflect.DeepEqual(beside, slices.Concat(challenges{good}, got, challenges{good})) {
		t.Fatalf("%q: got %q between two lines, want %q", line, beside, got)
	}
	before := challenged("Good a=b, " + line)
	if before[0].Scheme != "Good" || before[0].Params["a"] != "b" || len(before) != 1+len(got) {
		t.Fatalf("%q: got %q after another challenge, want %q", line, before, got)
	}
	if strings.Contains(line, `"`) {
		return // which may reach over what follows
	}
	if inside := challenged(`@"` + line + `\", ", Good a=b`); !reflect.DeepEqual(inside, challenges{good}) && !strings.Contains(line, `\`) {
		t.Fatalf("%q: got %q in a quoted-string and before another challenge", line, inside)
	}
	after := challenged(line + ", Good a=b")
	if last := len(after) - 1; len(after) != 1+len(got) || !reflect.DeepEqual(after[last], good) {
		t.Fatalf("%q: got %q before another challenge, want %q", line, after, got)
	}
}

var incurable = regexp.MustCompile(`^(insufficient_(scope|user_authentication|claims)|invalid_request|use_dpop_nonce)$`)

// wantCurable checks what Unauthorized makes of the challenges.
func wantCurable(t *testing.T, line string, got challenges) {
	t.Helper()
	want := !slices.ContainsFunc(got, func(c transport.Challenge) bool {
		scheme := strings.ToLower(c.Scheme)
		return (scheme == "bearer" || scheme == "dpop") && incurable.MatchString(c.Params["error"])
	})
	resp := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {line}}}
	if transport.Unauthorized(resp) != want {
		t.Fatalf("%q: Unauthorized is %t, want %t", line, !want, want)
	}
}
