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
)

// public names the parameters that are no secrets, and that servers repeat in
// their error descriptions with good reason.
var public = map[string]bool{
	"grant_type": true, "client_id": true, "scope": true, "audience": true, "resource": true,
	"response_type": true, "token_format": true, "requested_token_use": true, // parts of codes, such as token of invalid_token
	"client_assertion_type": true, "subject_token_type": true, "actor_token_type": true, "requested_token_type": true,
}

// codes are those of RFC 6749 section 5.2. They stay as they are, for callers
// compare them, even if a parameter happens to be a part of one.
var codes = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true,
}

// secrets are all the forms of a token request that may have been sent.
type secrets struct {
	mu    sync.Mutex // guards forms: a layer may send the request from many goroutines
	forms []url.Values
}

func (s *secrets) add(form url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forms = append(s.forms, form)
}

// A redactor removes what the request carried from what came back.
type redactor struct{ *strings.Replacer }

// of returns the redactor of a request to e.
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
		quoted := strconv.Quote(s) // as errors of net/http write it
		hidden = append(hidden, url.QueryEscape(s), quoted[1:len(quoted)-1])
	}
	// The longest first: one secret may be the beginning of another.
	slices.SortFunc(hidden, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range hidden {
		if len(s) >= 4 { // no secret is shorter, and much of a text would match
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

// error returns err itself if its text has no secret, as nearly every error.
// But net/http quotes a line of a reply that is not HTTP, and a Location that
// is no URL.
func (r redactor) error(err error) error {
	if s := err.Error(); r.text(s) != s {
		return errors.New(r.text(s))
	}
	return err
}

// text returns s without secrets. Where an escape hides one, it returns s unescaped.
func (r redactor) text(s string) string {
	s = r.Replace(s)
	plain := unescaped(s)
	if bare := r.Replace(plain); bare != plain {
		return bare
	}
	return s
}

// escapes are those of URLs, of JSON and of JavaScript.
var escapes = regexp.MustCompile(`(?i)(?:%|\\u00|\\x)[0-9a-f]{2}|\\/`)

// unescaped returns s without the escapes by which servers repeat what they got, also
// one in the other. Those of HTML are among them.
func unescaped(s string) string {
	for range 3 {
		s = escapes.ReplaceAllStringFunc(html.UnescapeString(s), func(escape string) string {
			if escape == `\/` {
				return "/"
			}
			n, _ := strconv.ParseUint(escape[len(escape)-2:], 16, 8) // escapes has no others
			return string([]byte{byte(n)})
		})
	}
	return s
}
