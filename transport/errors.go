package transport

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// An Error is what [Auth.RoundTrip] returns when it could not send a request
// with a token, or not again, and [DPoP.RoundTrip] with a proof. Errors of the
// base transport come as they are.
type Error struct {
	// StatusCode is the status of the response that refused the token or the
	// proof. Zero means that the request was not sent.
	StatusCode int

	// Err tells why: a Source's error, such as one that wraps
	// tokensource.ErrReauthenticate, the error of the request's context, a field
	// of Auth that forbids or lacks something, or the error of DPoP's Key.
	Err error

	// Challenges are those of the response with StatusCode, see [Challenges]: the
	// scope or the claims that a step-up demands, or where to log in (RFC 9728).
	// The token that the request carried is redacted where they repeat it.
	Challenges []Challenge
}

// refusedError returns the Error about a request that was refused and not sent
// again. Refused is nil if it was not sent at all.
func refusedError(refused *http.Response, token string, err error) *Error {
	e := &Error{Err: err}
	if refused != nil {
		e.StatusCode = refused.StatusCode
		e.Challenges = redacted(Challenges(refused), token)
	}
	return e
}

// redacted removes a token from challenges that repeat it.
func redacted(challenges []Challenge, token string) []Challenge {
	if len(token) < 4 { // no secret is shorter, and much of a text would match
		return challenges
	}
	hide := strings.NewReplacer(token, "[redacted]", url.QueryEscape(token), "[redacted]", strings.ToLower(token), "[redacted]")
	for i, c := range challenges {
		challenges[i] = Challenge{Scheme: hide.Replace(c.Scheme), Token68: hide.Replace(c.Token68)}
		for name, value := range c.Params {
			if challenges[i].Params == nil {
				challenges[i].Params = make(map[string]string, len(c.Params))
			}
			challenges[i].Params[hide.Replace(name)] = hide.Replace(value)
		}
	}
	return challenges
}

// Error tells the status and why.
func (e *Error) Error() string {
	if e.StatusCode == 0 {
		return fmt.Sprintf("transport: the request was not sent: %v", e.Err)
	}
	return fmt.Sprintf("transport: the request was refused with status %d, and not sent again: %v", e.StatusCode, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether Err is a timeout, for http.Client asks.
func (e *Error) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout()
}
