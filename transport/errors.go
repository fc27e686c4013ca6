package transport

import (
	"errors"
	"fmt"
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
