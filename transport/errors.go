package transport

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// An Error says why [Auth.RoundTrip] could not send a request with a token, or not a
// second time, or why [DPoP.RoundTrip] could not send it with a proof. Errors of the
// base transport are returned unchanged.
type Error struct {
	// StatusCode is the status of the response that refused the token or the proof.
	// Zero means that the request was not sent.
	StatusCode int

	// Err is the reason: an error of the Source, such as one that wraps
	// tokensource.ErrReauthenticate; the error of the request's context; a field of
	// Auth that is missing or forbids the request; or the error of DPoP's Key.
	Err error

	// Challenges are the challenges of the response with StatusCode, see [Challenges]:
	// for example the scope or the claims that a step-up demands, or where to log in
	// (RFC 9728). If they repeat the request's token, it is redacted.
	Challenges []Challenge
}

// refusedError returns the Error for a request that was refused and not sent again.
// Refused is nil if the request was not sent at all.
func refusedError(refused *http.Response, token string, err error) *Error {
	e := &Error{Err: err}
	if refused != nil {
		e.StatusCode = refused.StatusCode
		e.Challenges = redacted(Challenges(refused), token)
	}
	return e
}

// redacted replaces a token in challenges that repeat it.
func redacted(challenges []Challenge, token string) []Challenge {
	if len(token) < 4 { // secrets are longer, and a shorter text would match too often
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

// Error returns the status and the reason.
func (e *Error) Error() string {
	if e.StatusCode == 0 {
		return fmt.Sprintf("transport: the request was not sent: %v", e.Err)
	}
	return fmt.Sprintf("transport: the request was refused with status %d, and not sent again: %v", e.StatusCode, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether Err is a timeout, as http.Client asks.
func (e *Error) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout()
}
