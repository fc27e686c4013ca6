package tokensource

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// ErrReauthenticate says that no token will come until somebody logs in again
// and hands the new token to [Cache.Set].
var ErrReauthenticate = errors.New("tokensource: a new login is needed")

// needsLogin reports whether it is the source itself that err says this of, and
// not another that it depends on, as an assertion's: that one recovers by itself
// when its own Cache is Set.
func needsLogin(err error) bool {
	_, other := errors.AsType[borrowed](err)
	return !other && errors.Is(err, ErrReauthenticate)
}

// borrowed is the error of another source.
type borrowed struct{ error }

func (b borrowed) Unwrap() error { return b.error }

// sound returns err, or another in its place if to look into it panics: a Source or a
// Store may return a nil pointer as an error, or wrap one.
func sound(err error) (result error) {
	if err == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			result = fmt.Errorf("tokensource: got a nil pointer for an error, or one that wraps a nil pointer: %T", err)
		}
	}()
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		panic("a nil pointer")
	}
	_, _ = err.Error(), errors.Is(err, ErrReauthenticate) // go through all that it wraps
	_, _ = errors.AsType[borrowed](err)
	return err
}

// An EndpointError is a token endpoint's refusal, or a reply of it that cannot
// be used. It holds nothing of the reply but the fields below, and in them no
// secret that the request carried.
type EndpointError struct {
	// StatusCode is the status of the reply.
	StatusCode int

	// Code, Description and URI are error, error_description and error_uri of
	// RFC 6749 section 5.2. Empty where the server sent none.
	Code, Description, URI string

	// RetryAfter is how long the server wants to be left alone (RFC 9110
	// section 10.2.3). Zero where it did not say.
	RetryAfter time.Duration

	// Err tells what is wrong with a reply that is not a refusal, or that the
	// local clock is wrong, after which an assertion or a proof was refused. Nil
	// otherwise.
	Err error

	// dated says that the request carried an assertion or a proof, which may be
	// what the server refused.
	dated bool
}

// Error tells the status and what the server said.
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
func (e *EndpointError) Unwrap() error {
	if e == nil { // a Source has returned a nil pointer as an error
		return nil
	}
	return e.Err
}

// Bounds of what is printed of a server's words, in bytes.
const (
	maxWord = 200
	maxText = 600 // some say what matters last
)

// printable shortens what a server says and keeps it on one line of a log.
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

// retryAfter reads the header as seconds or as a date, which counts from the
// reply's own Date, for the local clock may be wrong. An absurdly large number
// is the largest Duration.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	seconds, err := strconv.ParseUint(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || seconds > math.MaxInt64/uint64(time.Second):
		return math.MaxInt64
	case err == nil:
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, at.Sub(now))
}

// clockError tells if the local clock differs from the server's by more than
// servers forgive.
func clockError(h http.Header, now time.Time) error {
	server, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return nil
	}
	switch ahead := now.Sub(server).Round(time.Second); {
	case ahead > clockTolerance:
		return fmt.Errorf("the local clock is %v ahead of the server's", ahead)
	case ahead < -clockTolerance:
		return fmt.Errorf("the local clock is %v behind the server's", -ahead)
	}
	return nil
}

const clockTolerance = 10 * time.Second
