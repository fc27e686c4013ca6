package tokensource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A reply is a token endpoint's answer (RFC 6749 sections 5.1 and 5.2). A member of a
// wrong type, such as "error":false, counts as missing, because an error would discard
// a new refresh token.
type reply struct {
	AccessToken  string  `json:"access_token"`
	TokenType    text    `json:"token_type"`
	RefreshToken text    `json:"refresh_token"`
	Scope        scope   `json:"scope"`
	ExpiresIn    seconds `json:"expires_in"`
	ExpiresAt    moment  `json:"expires_at"`
	RefreshIn    seconds `json:"refresh_in"`
	Error        text    `json:"error"`
	Description  text    `json:"error_description"`
	URI          text    `json:"error_uri"`

	others map[string]json.RawMessage
}

type text string

func (t *text) UnmarshalJSON(data []byte) error {
	json.Unmarshal(data, (*string)(t))
	return nil
}

// scope is a string, or a list of strings, which some servers send.
type scope string

func (s *scope) UnmarshalJSON(data []byte) error {
	var list []string
	if json.Unmarshal(data, &list) == nil {
		*s = scope(strings.Join(list, " "))
	} else {
		json.Unmarshal(data, (*string)(s))
	}
	return nil
}

// seconds is a number, possibly with a fraction or in a string.
type seconds float64

func (s *seconds) UnmarshalJSON(data []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(data), `" `), 64)
	if err == nil && f > 0 {
		*s = seconds(f)
	}
	return nil
}

// life returns the lifetime of a token that a server has just issued, when its clock
// shows now. A number beyond maxLifetime is read as a moment, if that makes sense.
func (s seconds) life(now time.Time) time.Duration {
	if float64(s) < maxLifetime.Seconds() {
		return time.Duration(float64(s) * float64(time.Second))
	}
	if left := unix(float64(s)).Sub(now); left > 0 {
		return min(left, maxLifetime)
	}
	return maxLifetime
}

// unix reads seconds or milliseconds since 1970.
func unix(n float64) time.Time {
	if n < 5e11 { // in seconds the year 17814; in milliseconds 1985
		n *= 1000
	}
	return time.UnixMilli(int64(min(n, 5e14)))
}

// moment is a time in the form of RFC 3339, or a number that unix reads.
type moment time.Time

func (m *moment) UnmarshalJSON(data []byte) error {
	word := strings.Trim(string(data), `" `)
	at, err := time.Parse(time.RFC3339, word)
	if err != nil {
		n, _ := strconv.ParseFloat(word, 64) // for what is no number, 1970, which is past
		at = unix(n)
	}
	*m = moment(at)
	return nil
}

var errNoCode = errors.New("reply: no error code")

// read makes a token from the reply to a request that was sent at began.
func (e Endpoint) read(resp *http.Response, began time.Time) (*Token, *EndpointError) {
	fail := func(err error) *EndpointError {
		return &EndpointError{StatusCode: resp.StatusCode, RetryAfter: retryAfter(resp), Err: err}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		e.Issuer.gone()
	}
	switch {
	case resp.StatusCode/100 == 3:
		return nil, fail(errors.New("a redirect, which is not followed"))
	case err != nil:
		return nil, fail(fmt.Errorf("reply: %w", err))
	case len(body) > maxReply:
		return nil, fail(fmt.Errorf("reply: more than %d bytes", maxReply))
	}
	r, err := e.parse(resp.Header.Get("Content-Type"), body)
	switch {
	case resp.StatusCode/100 != 2 || r.Error != "": // whatever else is wrong with the reply
		refusal := fail(nil)
		if r.Error == "" && len(trim(body)) > 0 {
			refusal.Err = cmp.Or(err, errNoCode) // it may come from a proxy
		}
		refusal.Code, refusal.Description, refusal.URI = string(r.Error), string(r.Description), string(r.URI)
		return nil, refusal
	case err != nil:
		return nil, fail(err)
	}
	token := r.token(began, serverTime(resp.Header))
	if err := token.check(); err != nil {
		return nil, fail(err)
	}
	return token, nil
}

// token returns the token of a request that was sent at began. The server's clock
// showed now when it answered.
func (r reply) token(began, now time.Time) *Token {
	t := &Token{
		AccessToken: r.AccessToken, TokenType: string(r.TokenType), RefreshToken: string(r.RefreshToken),
		Scope: string(r.Scope), Extra: r.others,
	}
	life := r.ExpiresIn.life(now)
	if at := time.Time(r.ExpiresAt); at.After(now) {
		life = min(cmp.Or(life, maxLifetime), at.Sub(now))
	}
	if life == 0 {
		_, life = t.claimedLife(now)
	}
	if life > 0 {
		t.Expiry = began.Add(life)
	}
	if early := r.RefreshIn.life(now); early > 0 && (life <= 0 || early < life) {
		t.RefreshAt = began.Add(early)
	}
	return t
}

// parse reads JSON, or the form that some servers send since before the RFC.
func (e Endpoint) parse(contentType string, body []byte) (r reply, err error) {
	body = trim(body)
	if len(body) > 0 && e.ReplyJSON != nil {
		if body, err = e.ReplyJSON(body); err != nil {
			return reply{}, fmt.Errorf("Endpoint.ReplyJSON: %w", err)
		}
		body, contentType = trim(body), "application/json"
	}
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case len(body) == 0:
		return reply{}, errors.New("reply: empty")
	case body[0] == '<':
		return reply{}, errors.New("reply: markup, neither JSON nor a form")
	case body[0] != '{' && (media == "application/x-www-form-urlencoded" || media == "text/plain"):
		return parseForm(string(body))
	case body[0] != '{':
		return reply{}, errors.New("reply: not a JSON object")
	}
	err = json.Unmarshal(body, &r)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return r, fmt.Errorf("reply: %s is of the wrong type", wrong.Field)
	}
	if json.Unmarshal(body, &r.others) != nil {
		return reply{}, errors.New("reply: not valid JSON")
	}
	r.keepOthers()
	return r, nil
}

// trim removes what may surround JSON (RFC 8259 section 8.1).
func trim(body []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(body), []byte("\ufeff")))
}

// own names the members that have a field in Token or do not belong to a token.
var own = map[string]bool{
	"access_token": true, "token_type": true, "refresh_token": true, "scope": true, "expires_in": true, "expires_at": true,
	"refresh_in": true, "error": true, "error_description": true, "error_uri": true,
}

func (r *reply) keepOthers() {
	for name := range r.others {
		if own[strings.ToLower(name)] { // as json.Unmarshal compares
			delete(r.others, name)
		}
	}
	if len(r.others) == 0 {
		r.others = nil
	}
}

func parseForm(body string) (r reply, err error) {
	form, err := url.ParseQuery(body)
	if err != nil {
		return reply{}, errors.New("reply: not a valid form")
	}
	r.AccessToken, r.TokenType, r.RefreshToken = form.Get("access_token"), text(form.Get("token_type")), text(form.Get("refresh_token"))
	r.Error, r.Description, r.URI = text(form.Get("error")), text(form.Get("error_description")), text(form.Get("error_uri"))
	r.Scope = scope(form.Get("scope"))
	r.ExpiresIn.UnmarshalJSON([]byte(form.Get("expires_in")))
	r.ExpiresAt.UnmarshalJSON([]byte(form.Get("expires_at")))
	r.RefreshIn.UnmarshalJSON([]byte(form.Get("refresh_in")))
	r.others = make(map[string]json.RawMessage, len(form))
	for name := range form {
		r.others[name], _ = json.Marshal(form.Get(name)) // a string can always be marshalled
	}
	r.keepOthers()
	return r, nil
}
