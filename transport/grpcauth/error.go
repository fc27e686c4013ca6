package grpcauth

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A tokenError says that a call was not made, or not again, for want of a token.
type tokenError struct {
	code codes.Code
	what string
	err  error
}

// failed returns the error of a call whose Source returned err.
func failed(ctx context.Context, what string, err error) error {
	code := codes.Unavailable
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		code = codes.Unauthenticated
	case ctx.Err() != nil:
		code = status.FromContextError(ctx.Err()).Code()
	}
	return &tokenError{code, what, err}
}

// Error returns the code and the reason.
func (e *tokenError) Error() string { return e.GRPCStatus().Err().Error() }

// GRPCStatus is what package status looks for.
func (e *tokenError) GRPCStatus() *status.Status {
	return status.New(e.code, fmt.Sprintf("grpcauth: the call was %s: %v", e.what, e.err))
}

// Unwrap returns the Source's error.
func (e *tokenError) Unwrap() error { return e.err }
