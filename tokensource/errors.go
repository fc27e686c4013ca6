package tokensource

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// ErrReauthenticate says that no token is available until the user logs in again and
// the new token is passed to [Cache.Set].
var ErrReauthenticate = errors.New("tokensource: a new login is needed")

// needsLogin reports whether err says that the source itself needs a login. An error of
// a source that it depends on, such as that of an assertion, does not count: that
// source recovers when its own Cache is Set.
func needsLogin(err error) bool {
	_, other := errors.AsType[borrowed](err)
	return !other && errors.Is(err, ErrReauthenticate)
}

// borrowed is the error of another source.
type borrowed struct{ error }

func (b borrowed) Unwrap() error { return b.error }

// sound returns err, or another error if reading err panics: a Source or a Store may
// return a nil pointer as an error, or wrap one.
func sound(err error) (result error) {
	if err == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			result = fmt.Errorf("tokensource: got a nil pointer for an error, or one that wraps a nil pointer: %T", err)
		}
	}()
	_, _ = err.Error(), needsLogin(err) // visits all errors that it wraps
	return err
}

// guarded calls code that may panic, possibly where no caller can recover.
func guarded(whose string, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v", whose, p)
		}
	}()
	return sound(call())
}

// alone is guarded for code that may call runtime.Goexit where a goroutine must not end.
func alone(whose string, call func() error) error {
	err := fmt.Errorf("%s called runtime.Goexit", whose)
	var goroutine sync.WaitGroup
	goroutine.Go(func() { err = guarded(whose, call) })
	goroutine.Wait()
	return err
}

// An EndpointError is a refusal of a token endpoint, or a reply that is unusable. It has
// no other part of the reply than these fields, and no secret that the request carried.
type EndpointError struct {
	// StatusCode is the status of the reply.
	StatusCode int

	// Code, Description and URI are error, error_description and error_uri of RFC 6749
	// section 5.2. Each is empty if the server did not send it.
	Code, Description, URI string

	// RetryAfter is how long the server wants no requests (RFC 9110 section 10.2.3).
	// Zero means that the server did not say.
	RetryAfter time.Duration

	// Err says what is wrong with a body that does not follow RFC 6749, such as a
	// proxy's page. If an assertion or a proof was refused, Err may say that the local
	// clock is wrong. Nil otherwise, and for a refusal without a body.
	Err error

	// dated is not nil if the request carried an assertion or a proof, which the server
	// may have refused.
	dated *dated
}

// Error returns the status and what the server said.
func (e *EndpointError) Error() string {
	s := fmt.Sprintf("tokensource: the token endpoint answered %d", e.StatusCode)
	if e.Code != "" {
		s += " " + printable(e.Code, maxWord)
	}
	if e.Description != "" {
		s += ": " + printable(e.Description, maxText)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns Err.
func (e *EndpointError) Unwrap() error { return e.Err }

// Bounds of a server's words in an error text, in bytes.
const (
	maxWord = 200
	maxText = 600 // some put what matters last
)

// printable shortens a server's text and keeps it on one line of a log.
func printable(s string, most int) string {
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	q := strconv.Quote(s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}

// retryAfter returns how long a refusal demands that no request is sent: by
// Retry-After, or else by the headers that some servers send instead (X-Retry-After,
// and the fields of draft-ietf-httpapi-ratelimit-headers if nothing remains).
func retryAfter(resp *http.Response) time.Duration {
	h := resp.Header
	switch after := cmp.Or(h.Get("Retry-After"), h.Get("X-Retry-After")); {
	case after != "":
		return delay(after, h)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		return rateLimit(h)
	}
	return 0
}

// rateLimit reads RateLimit-Reset of the draft's versions up to 6, and RateLimit of
// version 7 ("limit=10, remaining=0, reset=5") and of version 8 and later
// ("policy";r=0;t=5, ...).
func rateLimit(h http.Header) (longest time.Duration) {
	if h.Get("RateLimit-Reset") != "" && strings.Trim(h.Get("RateLimit-Remaining"), "0") == "" {
		return delay(h.Get("RateLimit-Reset"), h)
	}
	left, reset := "", ""
	for _, field := range strings.FieldsFunc(strings.Join(h.Values("RateLimit"), ","), func(r rune) bool { return r == ',' || r == ';' }) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(field), "="); name {
		case "r", "remaining":
			left = value
		case "t", "reset":
			reset = value
		case "limit":
		default: // the next policy
			left, reset = "", ""
		}
		if left == "0" && reset != "" {
			longest = max(longest, delay(reset, h))
		}
	}
	return longest
}

// delay reads seconds or a date. A date counts from the reply's own Date, because the
// local clock may be wrong. A number that is too large becomes the largest Duration.
func delay(value string, h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(value, 10, 64)
	switch {
	case seconds > math.MaxInt64/uint64(time.Second): // also if it is out of ParseUint's range
		return math.MaxInt64
	case err == nil:
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(serverTime(h)))
}

// serverTime returns the time of the server's clock when it answered, or the local time
// if the server did not say.
func serverTime(h http.Header) time.Time {
	if at, err := http.ParseTime(h.Get("Date")); err == nil {
		return at
	}
	return time.Now()
}

// clockError returns an error if the local clock differs from the server's by more than
// servers tolerate, and whether the server says what its clock shows.
func clockError(h http.Header, now time.Time) (err error, known bool) {
	server, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return nil, false
	}
	switch ahead := now.Sub(server).Round(time.Second); {
	case ahead > clockTolerance:
		return fmt.Errorf("the local clock is %v ahead of the server's", ahead), true
	case ahead < -clockTolerance:
		return fmt.Errorf("the local clock is %v behind the server's", -ahead), true
	}
	return nil, true
}

const clockTolerance = 10 * time.Second
