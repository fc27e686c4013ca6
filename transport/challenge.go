package transport

import (
	"net/http"
	"strings"
)

// A Challenge is one of a response's demands to authenticate (RFC 9110 section 11.3).
type Challenge struct {
	// Scheme is the scheme as the server wrote it, such as Bearer, DPoP or Basic.
	// Compare it with strings.EqualFold.
	Scheme string

	// Token68 is the value that a few schemes send instead of parameters, or empty.
	Token68 string

	// Params are the parameters, with names in lower case and values unquoted. If a
	// name is repeated, its first value counts. Nil means that there are no parameters.
	Params map[string]string
}

// Challenges returns the challenges of the response's WWW-Authenticate headers, in
// order. Use it to read a step-up demand (RFC 9470) or the claims that an API demands.
// It skips text that does not follow the grammar, but returns the challenges beside it.
// It also skips a line that would raise the total above 64 KiB, and what follows the
// first 500 challenges and parameters.
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

// A parser reads header lines: challenge = auth-scheme [ 1*SP ( token68 / #auth-param )
// ]. The items of the list between commas are challenges, or parameters of the last
// challenge.
type parser struct {
	all   []Challenge
	items int    // challenges and parameters so far
	rest  string // what is left of the line
	begun bool   // the line has had a challenge
	full  bool   // the last challenge has a token68, and so takes no parameters
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

// item reads a challenge or a parameter, and skips anything else.
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

// token reads a token (RFC 9110 section 5.6.2), which may be empty.
func (p *parser) token() string {
	line := p.rest
	p.rest = strings.TrimLeft(line, tokenChars)
	return line[:len(line)-len(p.rest)]
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

// quoted reads a quoted-string. If it has no closing quote, it extends to the end of
// the line.
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

// token68 reads a token68 that is the rest of a list item after the scheme. Otherwise
// it reads nothing.
func (p *parser) token68() string {
	item := strings.TrimLeft(p.rest, " \t")
	rest := strings.TrimLeft(strings.TrimLeft(item, token68Chars), "=")
	after := strings.TrimLeft(rest, " \t")
	if after != "" && after[0] != ',' {
		return ""
	}
	p.rest = after
	return item[:len(item)-len(rest)]
}

// skip skips the rest of a list item.
func (p *parser) skip() {
	for p.rest != "" && p.rest[0] != ',' {
		if p.rest[0] == '"' {
			p.quoted()
		} else {
			p.rest = p.rest[1:]
		}
	}
}

const (
	alnum        = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tokenChars   = alnum + "!#$%&'*+-.^_`|~"
	token68Chars = alnum + "-._~+/"
)
