package tokensource

import (
	"errors"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// public names the parameters that are not secret and that servers have good reason to
// repeat in error descriptions.
var public = map[string]bool{
	"grant_type": true, "client_id": true, "scope": true, "audience": true, "resource": true,
	"response_type": true, "token_format": true, "requested_token_use": true, // part of codes, such as token in invalid_token
	"client_assertion_type": true, "subject_token_type": true, "actor_token_type": true, "requested_token_type": true,
}

// codes are the codes of RFC 6749 section 5.2. They are never redacted, even if a
// parameter is part of one, because callers compare them.
var codes = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true,
}

// secrets holds all forms of a token request that may have been sent.
type secrets struct {
	mu    sync.Mutex // guards forms: a layer may send the request from several goroutines
	forms []url.Values
}

func (s *secrets) add(form url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forms = append(s.forms, form)
}

// A redactor removes the secrets of a request from the reply to it.
type redactor struct{ *strings.Replacer }

// of returns the redactor for a request to e.
func (s *secrets) of(e Endpoint, req *http.Request) redactor {
	s.mu.Lock()
	defer s.mu.Unlock()
	password, _ := req.URL.User.Password()
	_, credentials, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	hidden := []string{e.ClientSecret, password, credentials}
	for _, form := range s.forms {
		for name, values := range form {
			if !public[name] {
				hidden = append(hidden, values...)
			}
		}
	}
	for _, values := range req.URL.Query() {
		hidden = append(hidden, values...)
	}
	for _, s := range hidden {
		quoted := strconv.Quote(s) // as net/http's errors write it
		hidden = append(hidden, url.QueryEscape(s), quoted[1:len(quoted)-1])
	}
	// The longest comes first, because one secret may be the beginning of another.
	slices.SortFunc(hidden, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range hidden {
		if len(s) >= 4 { // secrets are longer, and a shorter text would match too often
			pairs = append(pairs, s, "[redacted]")
		}
	}
	return redactor{strings.NewReplacer(pairs...)}
}

func (r redactor) refusal(e *EndpointError) {
	if !codes[e.Code] {
		e.Code = r.text(e.Code)
	}
	e.Description, e.URI = r.text(e.Description), r.text(e.URI)
	if e.Err != nil {
		e.Err = r.error(e.Err)
	}
}

// error returns err itself if its text has no secret, which is nearly always so. But
// net/http quotes a line of a reply that is not HTTP, and a Location that is not a URL.
// What text unescapes to find a secret there stays on one line of a log.
func (r redactor) error(err error) error {
	s := err.Error()
	bare := r.text(s)
	if bare == s {
		return err
	}
	return errors.New(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, bare))
}

// text returns s without secrets. If an escape hides a secret, it returns s unescaped.
func (r redactor) text(s string) string {
	s = r.Replace(s)
	plain := unescaped(s)
	if bare := r.Replace(plain); bare != plain {
		return bare
	}
	return s
}

// escapes matches the escapes of URLs, JSON and JavaScript.
var escapes = regexp.MustCompile(`(?i)(?:%|\\u00|\\x)[0-9a-f]{2}|\\/`)

// unescaped returns s without the escapes with which servers repeat their input, also
// if they are nested. These include the escapes of HTML.
func unescaped(s string) string {
	for range 3 {
		s = escapes.ReplaceAllStringFunc(html.UnescapeString(s), func(escape string) string {
			if escape == `\/` {
				return "/"
			}
			n, _ := strconv.ParseUint(escape[len(escape)-2:], 16, 8) // escapes matches no others
			return string([]byte{byte(n)})
		})
	}
	return s
}
