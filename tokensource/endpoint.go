package tokensource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/proof"
)

// An Endpoint is an authorization server's token endpoint and how this client
// authenticates there (RFC 6749 sections 2.3 and 3.2).
//
// Printed, logged or marshalled in any way, an Endpoint shows no secret.
type Endpoint struct {
	// URL is the token endpoint. It must be https, unless the host is loopback
	// or AllowHTTP is set.
	URL string

	// ClientID names the client.
	ClientID string

	// ClientSecret authenticates the client, by HTTP Basic
	// (client_secret_basic). Empty means a public client.
	ClientSecret string

	// ClientSecretPost sends the secret in the form instead
	// (client_secret_post), for servers that know no Basic.
	ClientSecretPost bool

	// ClientAssertion authenticates the client by a JWT instead
	// (private_key_jwt, RFC 7523 section 2.2), anew for each request: a
	// [SignedJWT] with the client's id as Issuer and Subject, or a [File]. Nil
	// means none; beside ClientSecret it is an error.
	ClientAssertion Source

	// Params are sent with every request, beside those of the grant, which win:
	// audience, resource and the like. Nil means none.
	Params url.Values

	// Client sends the requests; nil means http.DefaultClient. Redirects are
	// never followed, whatever its CheckRedirect.
	Client *http.Client

	// AllowHTTP allows the client's secret and tokens to travel unencrypted.
	AllowHTTP bool
}

// maxReply is how much of a reply is read.
const maxReply = 1 << 20

// Exchange sends one token request, the way for a grant that this package does
// not have: form holds its grant_type and parameters. It returns an
// [EndpointError] for the server's refusal or an unusable reply, and an error
// without the URL, which may hold secrets, where no reply came.
func (e Endpoint) Exchange(ctx context.Context, form url.Values) (*Token, error) {
	return e.exchange(ctx, func(context.Context) (url.Values, error) { return form, nil })
}

// A grant makes the form of a token request, for each time that it is sent:
// assertions are used once.
type grant func(context.Context) (url.Values, error)

func (e Endpoint) exchange(ctx context.Context, grant grant) (*Token, error) {
	form, err := e.form(ctx, grant)
	if err != nil {
		return nil, err
	}
	watched, proved := proof.Watch(ctx)
	req, err := e.request(watched, form)
	if err != nil {
		return nil, err
	}
	secrets := &secrets{forms: []url.Values{form}}
	req.GetBody = e.bodyAgain(ctx, grant, req.ContentLength, secrets)
	began := time.Now()
	resp, err := e.client().Do(req)
	if err != nil {
		for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
			err = u.Err
		}
		return nil, borrowed{fmt.Errorf("tokensource: token endpoint: %w", secrets.of(e, req).error(err))}
	}
	defer resp.Body.Close()
	token, refusal := read(resp, began)
	if refusal == nil {
		return token, nil
	}
	refusal.dated = proved.Load() || form.Has("client_assertion") || form.Has("assertion")
	if refusal.dated && refusal.Err == nil {
		refusal.Err = clockError(resp.Header, time.Now())
	}
	secrets.of(e, req).refusal(refusal)
	return nil, refusal
}

// form makes the whole form of a token request.
func (e Endpoint) form(ctx context.Context, grant grant) (url.Values, error) {
	own, err := grant(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{}
	maps.Copy(form, e.Params)
	maps.Copy(form, own)
	if e.ClientSecret == "" || e.ClientSecretPost {
		setNonEmpty(form, "client_id", e.ClientID)
		setNonEmpty(form, "client_secret", e.ClientSecret)
	}
	if e.ClientAssertion == nil {
		return form, nil
	}
	if e.ClientSecret != "" {
		return nil, errors.New("tokensource: Endpoint.ClientAssertion and Endpoint.ClientSecret exclude each other")
	}
	text, err := ownAssertion(ctx, "Endpoint.ClientAssertion", e.ClientAssertion)
	if err != nil {
		return nil, err
	}
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", text)
	return form, nil
}

func setNonEmpty(form url.Values, name, value string) {
	if value != "" {
		form.Set(name, value)
	}
}

// bodyAgain returns a GetBody for whoever below Client sends the request once
// more, as transport.DPoP does with a nonce. The server may have spent the
// assertions, so there are new ones, which must be as long: those of a
// SignedJWT are.
func (e Endpoint) bodyAgain(ctx context.Context, grant grant, length int64, secrets *secrets) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		form, err := e.form(ctx, grant)
		if err != nil {
			return nil, err
		}
		body := form.Encode()
		if int64(len(body)) != length {
			return nil, errors.New("tokensource: the next token request is of another length")
		}
		secrets.add(form)
		return io.NopCloser(strings.NewReader(body)), nil
	}
}

func (e Endpoint) request(ctx context.Context, form url.Values) (*http.Request, error) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" {
		return nil, errors.New("tokensource: Endpoint.URL is not an absolute URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("tokensource: Endpoint.URL is not a URL")
	}
	if err := origin.CheckPrivate(e.client().Transport, req); err != nil && !e.AllowHTTP {
		return nil, fmt.Errorf("tokensource: Endpoint.URL: %w, and Endpoint.AllowHTTP is not set", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if e.ClientSecret != "" && !e.ClientSecretPost {
		// RFC 6749 section 2.3.1 encodes both first.
		req.SetBasicAuth(url.QueryEscape(e.ClientID), url.QueryEscape(e.ClientSecret))
	}
	return req, nil
}

// client follows no redirect: http.Client would send the form, and with 307 the
// secrets in it, wherever it is told.
func (e Endpoint) client() *http.Client {
	client := *http.DefaultClient
	if e.Client != nil {
		client = *e.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// fingerprint tells whose tokens a grant without refresh token obtains, see [Stored.Key].
func (e Endpoint) fingerprint(grant string, scopes []string) []string {
	return append([]string{grant, e.URL, e.ClientID, e.Params.Encode()}, scopes...)
}

// String tells the URL's host and the client's id, no secret.
func (e Endpoint) String() string {
	host := ""
	if u, err := url.Parse(e.URL); err == nil {
		host = u.Host
	}
	return fmt.Sprintf("token endpoint at %q, client %q", host, e.ClientID)
}

// Format writes [Endpoint.String], whatever the verb.
func (e Endpoint) Format(s fmt.State, verb rune) { io.WriteString(s, e.String()) }

// MarshalText returns [Endpoint.String], so that JSON, XML and slog show no secret.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// MarshalBinary returns an error, so that gob and its like write no secret.
func (e Endpoint) MarshalBinary() ([]byte, error) { return nil, errBinary }

// A reply is a token endpoint's answer (RFC 6749 sections 5.1 and 5.2).
type reply struct {
	AccessToken  string  `json:"access_token"`
	TokenType    string  `json:"token_type"`
	RefreshToken string  `json:"refresh_token"`
	ExpiresIn    seconds `json:"expires_in"`
	RefreshIn    seconds `json:"refresh_in"`
	Error        string  `json:"error"`
	Description  string  `json:"error_description"`
	URI          string  `json:"error_uri"`
}

// seconds is a lifetime as servers send it: a number, a string, a float. What
// cannot be one is zero, a lifetime that nobody knows: an error here would
// throw a new refresh token away.
type seconds time.Duration

func (s *seconds) UnmarshalJSON(data []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(data), `" `), 64)
	if err == nil && f > 0 {
		*s = seconds(min(f, maxLifetime.Seconds()) * float64(time.Second))
	}
	return nil
}

// read makes a token of the reply to a request that was sent at began.
func read(resp *http.Response, began time.Time) (*Token, *EndpointError) {
	fail := func(err error) *EndpointError {
		return &EndpointError{StatusCode: resp.StatusCode, RetryAfter: retryAfter(resp.Header), Err: err}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	good := resp.StatusCode >= 200 && resp.StatusCode <= 299
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode <= 399:
		return nil, fail(errors.New("a redirect, which is not followed"))
	case err != nil:
		return nil, fail(fmt.Errorf("reply: %w", err))
	case len(body) > maxReply:
		return nil, fail(fmt.Errorf("reply: more than %d bytes", maxReply))
	}
	r, err := parse(resp.Header.Get("Content-Type"), body)
	switch {
	case !good || r.Error != "": // whatever else is wrong with it
		refusal := fail(nil)
		refusal.Code, refusal.Description, refusal.URI = r.Error, r.Description, r.URI
		return nil, refusal
	case err != nil:
		return nil, fail(err)
	}
	token := r.token(began)
	if err := token.check(); err != nil {
		return nil, fail(err)
	}
	token = token.withLifetime(began)
	if !token.Expiry.IsZero() && !token.RefreshAt.Before(token.Expiry) {
		token.RefreshAt = time.Time{}
	}
	return token, nil
}

func (r reply) token(began time.Time) *Token {
	t := &Token{AccessToken: r.AccessToken, TokenType: r.TokenType, RefreshToken: r.RefreshToken}
	if r.ExpiresIn > 0 {
		t.Expiry = began.Add(time.Duration(r.ExpiresIn))
	}
	if r.RefreshIn > 0 {
		t.RefreshAt = began.Add(time.Duration(r.RefreshIn))
	}
	return t
}

// parse reads JSON, or the form that some servers have sent since before the
// RFC. A reply with a field of the wrong type has the others.
func parse(contentType string, body []byte) (r reply, err error) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff"))) // RFC 8259 section 8.1
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case len(body) == 0:
		return r, errors.New("reply: empty")
	case body[0] == '<':
		return r, errors.New("reply: markup, neither JSON nor a form")
	case body[0] != '{' && (media == "application/x-www-form-urlencoded" || media == "text/plain"):
		return parseForm(string(body))
	case body[0] != '{':
		return r, errors.New("reply: not a JSON object")
	}
	err = json.Unmarshal(body, &r)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return r, fmt.Errorf("reply: %s is of the wrong type", wrong.Field)
	}
	if err != nil {
		return r, errors.New("reply: not valid JSON")
	}
	return r, nil
}

func parseForm(body string) (r reply, err error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return r, errors.New("reply: not a valid form")
	}
	r.AccessToken, r.TokenType, r.RefreshToken = form.Get("access_token"), form.Get("token_type"), form.Get("refresh_token")
	r.Error, r.Description, r.URI = form.Get("error"), form.Get("error_description"), form.Get("error_uri")
	r.ExpiresIn.UnmarshalJSON([]byte(form.Get("expires_in")))
	r.RefreshIn.UnmarshalJSON([]byte(form.Get("refresh_in")))
	return r, nil
}

// public names the parameters that are no secrets, and that servers repeat in
// their error descriptions with good reason.
var public = map[string]bool{
	"grant_type": true, "client_id": true, "scope": true, "audience": true, "resource": true,
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
