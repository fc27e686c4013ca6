package tokensource

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// RefreshToken exchanges refresh tokens (RFC 6749 section 6). Put a [Cache] over it. A
// server that rotates refresh tokens ends the login if one is sent twice (RFC 9700
// section 4.14.2). The Cache sends each only once.
//
// Printed, logged or marshalled in any way, it shows no secret.
type RefreshToken struct {
	// Endpoint is the token endpoint, and how the client authenticates there.
	Endpoint Endpoint

	// RefreshToken is the initial refresh token. It may be empty if the first token
	// comes by [Cache.Set].
	RefreshToken string

	// Scopes are the scopes to request. None means the scopes of the refresh token.
	Scopes []string

	// Final reports whether a refusal means that the refresh token is dead, for servers
	// that say this by other means than invalid_grant:
	//
	//	Final: func(refusal *tokensource.EndpointError) bool {
	//		return refusal.Code == "bad_refresh_token"
	//	}
	//
	// It is not called for a status of 429 or 5xx. If it returns false, the refusal is
	// judged as if Final were nil, so Final need not know invalid_grant. It must be
	// safe for concurrent use. Nil means that the server follows RFC 6749.
	Final func(*EndpointError) bool
}

// Token exchanges the refresh token of old, or the initial one if old is nil. If the
// server sends no new refresh token, the returned token keeps the one that was sent.
//
// The error wraps [ErrReauthenticate] if there is no refresh token or it is dead: the
// server answers invalid_grant, or Final returns true. Otherwise the error is one of
// [Endpoint.Exchange]. A status of 429 or 5xx never ends a login, whatever the body
// says.
//
// Some servers also answer invalid_grant if they refuse the client assertion or the
// DPoP proof. If a refresh token is refused beside an assertion or a proof, Token
// immediately sends it once more with new ones. The refresh token is dead if the server
// answers invalid_grant again, and its Date agrees with the local clock to within 10 s
// both times. An assertion that does not change, such as one from a [File], proves
// nothing. If the server answers invalid_grant only for dead refresh tokens, let Final
// return true for it.
func (r *RefreshToken) Token(ctx context.Context, old *Token) (*Token, error) {
	refresh := r.RefreshToken
	if old != nil {
		refresh = old.RefreshToken // never the initial one again, because it may be spent
	}
	if refresh == "" {
		return nil, fmt.Errorf("%w: there is no refresh token", ErrReauthenticate)
	}
	token, err := r.exchange(ctx, refresh, nil)
	if err == nil && token.RefreshToken == "" {
		token.RefreshToken = refresh
	}
	return token, err
}

// exchange sends the refresh token. It sends it once more after a refusal that does not
// show what the server refused.
func (r *RefreshToken) exchange(ctx context.Context, refresh string, before *dated) (*Token, error) {
	token, err := r.Endpoint.exchange(ctx, func(context.Context) (url.Values, error) {
		form := grantForm("refresh_token", r.Scopes)
		form.Set("refresh_token", refresh)
		return form, nil
	}, before)
	refusal, ok := err.(*EndpointError) // not errors.As, because ClientAssertion may use another endpoint
	switch {
	case !ok || refusal.StatusCode == http.StatusTooManyRequests || refusal.StatusCode >= 500:
		return token, err
	case r.Final != nil && r.Final(refusal):
	case refusal.Code != "invalid_grant":
		return nil, err
	case refusal.dated == nil:
	case !refusal.dated.agreed:
		return nil, err
	case before == nil:
		token, again := r.exchange(ctx, refresh, refusal.dated)
		if again == errSame {
			again = err
		}
		return token, again
	}
	return nil, fmt.Errorf("%w: %w", ErrReauthenticate, err)
}

func (r *RefreshToken) fingerprint() []string {
	return []string{"refresh_token", r.Endpoint.name(), r.Endpoint.ClientID, r.RefreshToken}
}

// String describes the endpoint, without a secret.
func (r RefreshToken) String() string {
	return "refresh token [redacted] for the " + r.Endpoint.String()
}

// Format writes [RefreshToken.String] for every verb.
func (r RefreshToken) Format(s fmt.State, verb rune) { io.WriteString(s, r.String()) }

// MarshalText returns [RefreshToken.String], so that JSON, XML and slog show no secret.
func (r RefreshToken) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no secret.
func (r RefreshToken) MarshalBinary() ([]byte, error) { return nil, errBinary }
