package transport

import (
	"errors"
	"fmt"
)

// An Error is what [Auth.RoundTrip] returns when it could not send a request
// with a token, or not again. Errors of the base transport come as they are.
type Error struct {
	// StatusCode is the status of the response that refused the token. Zero
	// means that the request was not sent.
	StatusCode int

	// Err tells why: a Source's error, such as one that wraps
	// tokensource.ErrReauthenticate, the error of the request's context, or a
	// field of Auth that forbids or lacks something.
	Err error
}

// Error tells the status and why.
func (e *Error) Error() string {
	if e.StatusCode == 0 {
		return fmt.Sprintf("transport: the request was not sent: %v", e.Err)
	}
	return fmt.Sprintf("transport: the token was refused with status %d, and no other came: %v", e.StatusCode, e.Err)
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
