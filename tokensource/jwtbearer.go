package tokensource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"
)

// JWTBearer exchanges an assertion for tokens: a JWT that the authorization server
// trusts (RFC 7523 section 2.1). Put a [Cache] over it.
//
// Printed, logged or marshalled in any way, it shows no secret.
type JWTBearer struct {
	// Endpoint is the token endpoint, and how the client authenticates there.
	Endpoint Endpoint

	// Assertion supplies the assertion, and is asked for each token request. Use a
	// [SignedJWT] or a [File].
	Assertion Source

	// Scopes are the scopes to request. None means the server's default.
	Scopes []string
}

// Token obtains a token and ignores old. The error names Assertion if that returns no
// token or an expired one; otherwise it is one of [Endpoint.Exchange]. It wraps
// [ErrReauthenticate] if Assertion needs a login: pass the login's token to Set of the
// Cache inside Assertion.
func (j *JWTBearer) Token(ctx context.Context, old *Token) (*Token, error) {
	return j.Endpoint.exchange(ctx, func(ctx context.Context) (url.Values, error) {
		assertion, err := ownAssertion(ctx, "JWTBearer.Assertion", j.Assertion)
		if err != nil {
			return nil, err
		}
		form := grantForm("urn:ietf:params:oauth:grant-type:jwt-bearer", j.Scopes)
		form.Set("assertion", assertion)
		return form, nil
	}, nil)
}

func (j *JWTBearer) fingerprint() []string {
	return j.Endpoint.fingerprint("jwt-bearer", j.Scopes)
}

// String describes the endpoint, without a secret.
func (j JWTBearer) String() string { return "JWT bearer for the " + j.Endpoint.String() }

// Format writes [JWTBearer.String] for every verb.
func (j JWTBearer) Format(s fmt.State, verb rune) { io.WriteString(s, j.String()) }

// MarshalText returns [JWTBearer.String], so that JSON, XML and slog show no secret.
func (j JWTBearer) MarshalText() ([]byte, error) { return []byte(j.String()), nil }

// ownAssertion is assertion for an assertion under the rules of RFC 7523 section 3.
func ownAssertion(ctx context.Context, field string, source Source) (string, error) {
	if s, ok := source.(*SignedJWT); ok && len(s.Audience) == 0 {
		return "", fmt.Errorf("tokensource: %s: SignedJWT.Audience is empty, and an assertion needs one", field)
	}
	return assertion(ctx, field, source)
}

// assertion asks the Source in a field for a token that a token request carries.
func assertion(ctx context.Context, field string, source Source) (string, error) {
	if source == nil {
		return "", fmt.Errorf("tokensource: %s is nil", field)
	}
	token, err := source.Token(ctx, nil)
	if err == nil {
		err = token.check()
	}
	if err == nil && !token.good(time.Now()) {
		err = errors.New("it has expired")
	}
	if err != nil {
		return "", borrowed{fmt.Errorf("tokensource: %s: %w", field, err)}
	}
	return token.AccessToken, nil
}
