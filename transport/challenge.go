package transport

import (
	"net/http"
	"strings"
)

// A Challenge is one of a response's demands to authenticate (RFC 9110 section 11.3).
type Challenge struct {
	// Scheme is as the server wrote it: Bearer, DPoP, Basic. Compare it with
	// strings.EqualFold.
	Scheme string

	// Token68 is what a few schemes send instead of parameters. Empty where
	// there is none.
	Token68 string

	// Params are the parameters, their names in lower case, their values
	// unquoted. The first of a name counts. Nil where there are none.
	Params map[string]string
}

// Challenges returns the challenges of the response's WWW-Authenticate headers,
// in order: the way to read a step-up demand (RFC 9470) or the claims that an
// API wants. What does not follow the grammar is passed over, and hides no
// challenge beside it. A line with which they would be more than 64 KiB is passed
// over, too, and so is what follows the first 500 challenges and parameters.
func Challenges(resp *http.Response) []Challenge {
	var p parser
	left := maxLines
	for _, line := range resp.Header["Www-Authenticate"] {
		if len(line) <= left {
			left -= len(line)
			p.parse(line)
		}
	}
	return p.all
}

// Bounds of challenges, far above what servers send.
const (
	maxLines = 64 << 10 // bytes
	maxItems = 500      // challenges and parameters
)

// A parser reads header lines: challenge = auth-scheme [ 1*SP ( token68 /
// #auth-param ) ], in a list with commas whose items are challenges and
// parameters of the last challenge alike.
type parser struct {
	all   []Challenge
	items int    // challenges and parameters so far
	rest  string // of the line
	begun bool   // the line has had a challenge
	full  bool   // which has a token68, and so takes no parameters
}

func (p *parser) parse(line string) {
	p.rest, p.begun = line, false
	for ; p.items < maxItems; p.items++ {
		p.rest = strings.TrimLeft(p.rest, " \t,")
		if p.rest == "" {
			return
		}
		p.item()
	}
}

// item reads a challenge or a parameter, or passes over what is neither.
func (p *parser) item() {
	name := p.token()
	if value, ok := p.value(); ok && name != "" {
		if p.begun {
			p.add(&p.all[len(p.all)-1], name, value)
		}
		p.skip()
		return
	}
	if name == "" || p.rest != "" && !strings.ContainsRune(" \t,", rune(p.rest[0])) {
		p.skip()
		return
	}
	p.all = append(p.all, Challenge{Scheme: name, Token68: p.token68()})
	p.begun, p.full = true, false
}

// add adds a parameter to the last challenge.
func (p *parser) add(c *Challenge, name, value string) {
	if c.Token68 != "" && !p.full {
		if empty, ok := strings.CutSuffix(c.Token68, "="); ok && !strings.ContainsAny(empty, "/=") {
			// Not a token68 after all, but a parameter without a value.
			c.Token68, c.Params = "", map[string]string{strings.ToLower(empty): ""}
			p.items++
		}
		p.full = c.Token68 != ""
	}
	if p.full {
		return
	}
	if c.Params == nil {
		c.Params = make(map[string]string)
	}
	name = strings.ToLower(name)
	if _, ok := c.Params[name]; !ok {
		c.Params[name] = value
	}
}

// token reads a token (RFC 9110 section 5.6.2), perhaps an empty one.
func (p *parser) token() string {
	n := 0
	for n < len(p.rest) && isTokenChar(p.rest[n]) {
		n++
	}
	token := p.rest[:n]
	p.rest = p.rest[n:]
	return token
}

// value reads the rest of a parameter: BWS "=" BWS ( token / quoted-string ).
// It reads nothing if no "=" follows.
func (p *parser) value() (string, bool) {
	after, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " \t"), "=")
	if !ok {
		return "", false
	}
	p.rest = strings.TrimLeft(after, " \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted(), true
	}
	return p.token(), true
}

// quoted reads a quoted-string; one that does not end reaches to the end of the line.
func (p *parser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}

// token68 reads a token68 that follows a scheme, and is all that does; else nothing.
func (p *parser) token68() string {
	item := strings.TrimLeft(p.rest, " \t")
	n := 0
	for n < len(item) && isToken68Char(item[n]) {
		n++
	}
	for n < len(item) && item[n] == '=' {
		n++
	}
	after := strings.TrimLeft(item[n:], " \t")
	if after != "" && after[0] != ',' {
		return ""
	}
	p.rest = after
	return item[:n]
}

// skip passes over what is left of a list item.
func (p *parser) skip() {
	for p.rest != "" && p.rest[0] != ',' {
		if p.rest[0] == '"' {
			p.quoted()
		} else {
			p.rest = p.rest[1:]
		}
	}
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isTokenChar(c byte) bool { return isAlnum(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 }

func isToken68Char(c byte) bool { return isAlnum(c) || strings.IndexByte("-._~+/", c) >= 0 }
