package tokensource

import (
	"context"
	"fmt"
	"io"
)

// RefreshToken exchanges refresh tokens (RFC 6749 section 6). Put a [Cache]
// over it: servers that rotate refresh tokens log everybody out when one is
// sent twice (RFC 9700 section 4.14.2), and the Cache sees to it that none is.
//
// Printed, logged or marshalled in any way, it shows no secret.
type RefreshToken struct {
	// Endpoint is where, and as whom.
	Endpoint Endpoint

	// RefreshToken is the initial one, for the first token. Empty if that comes
	// by [Cache.Set].
	RefreshToken string

	// Scopes to ask for. None means those of the refresh token.
	Scopes []string
}

// Token exchanges the refresh token of old, or the initial one if old is nil. Where the
// server sends no new refresh token, the token returned keeps the one that was
// sent.
//
// The error wraps [ErrReauthenticate] if there is no refresh token or the
// server answers invalid_grant. Otherwise it is one of [Endpoint.Exchange]; so
// is an invalid_grant if the request carried a client assertion or a DPoP proof,
// for some servers answer that if these are bad.
func (r *RefreshToken) Token(ctx context.Context, old *Token) (*Token, error) {
	refresh := r.RefreshToken
	if old != nil {
		refresh = old.RefreshToken // never the initial one again: it may be spent
	}
	if refresh == "" {
		return nil, fmt.Errorf("%w: there is no refresh token", ErrReauthenticate)
	}
	form := grantForm("refresh_token", r.Scopes)
	form.Set("refresh_token", refresh)
	token, err := r.Endpoint.Exchange(ctx, form)
	// Not errors.As: the refusal may be of another endpoint, where ClientAssertion comes from.
	if refusal, ok := err.(*EndpointError); ok && refusal.Code == "invalid_grant" && !refusal.dated {
		return nil, fmt.Errorf("%w: %w", ErrReauthenticate, err)
	}
	if err != nil {
		return nil, err
	}
	if token.RefreshToken == "" {
		token.RefreshToken = refresh
	}
	return token, nil
}

func (r *RefreshToken) fingerprint() []string {
	return []string{"refresh_token", r.Endpoint.URL, r.Endpoint.ClientID, r.RefreshToken}
}

// String tells the endpoint, no secret.
func (r RefreshToken) String() string {
	return "refresh token [redacted] for the " + r.Endpoint.String()
}

// Format writes [RefreshToken.String], whatever the verb.
func (r RefreshToken) Format(s fmt.State, verb rune) { io.WriteString(s, r.String()) }

// MarshalText returns [RefreshToken.String], so that JSON, XML and slog show no secret.
func (r RefreshToken) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalBinary returns an error, so that gob and its like write no secret.
func (r RefreshToken) MarshalBinary() ([]byte, error) { return nil, errBinary }
