package tokensource

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// RefreshToken exchanges refresh tokens (RFC 6749 section 6). Put a [Cache]
// over it. A server that rotates refresh tokens ends the login if one is sent twice
// (RFC 9700 section 4.14.2), and the Cache sends each only once.
//
// Printed, logged or marshalled in any way, it shows no secret.
type RefreshToken struct {
	// Endpoint is the token endpoint, and how the client authenticates there.
	Endpoint Endpoint

	// RefreshToken is the initial refresh token. It may be empty if the first token
	// comes by [Cache.Set].
	RefreshToken string

	// Scopes to ask for. None means those of the refresh token.
	Scopes []string

	// Final reports whether a refusal means that the refresh token is dead, for
	// servers that say so by other means than invalid_grant:
	//
	//	Final: func(refusal *tokensource.EndpointError) bool {
	//		return refusal.Code == "bad_refresh_token"
	//	}
	//
	// It is not asked about a status of 429 or 5xx. What it does not know is judged as
	// if it were nil: invalid_grant needs no mention. It may be called by many
	// goroutines at once. Nil means that the server keeps to RFC 6749.
	Final func(*EndpointError) bool
}

// Token exchanges the refresh token of old, or the initial one if old is nil. Where the
// server sends no new refresh token, the token returned keeps the one that was
// sent.
//
// The error wraps [ErrReauthenticate] if there is no refresh token or it is dead:
// the server answers invalid_grant, or what Final says. Otherwise it is one of
// [Endpoint.Exchange]. A status of 429 or 5xx never ends a login, whatever the body
// says.
//
// Some servers answer invalid_grant, too, if they dislike the client assertion or
// the DPoP proof. A refresh token that was refused beside one of these is sent once
// more at once, with others. It is dead if the server answers invalid_grant again,
// and its Date agrees with the local clock to within 10 s both times. An assertion
// that does not change, such as one from a [File], proves nothing: where the server
// says invalid_grant of dead refresh tokens alone, let Final return true for it.
func (r *RefreshToken) Token(ctx context.Context, old *Token) (*Token, error) {
	refresh := r.RefreshToken
	if old != nil {
		refresh = old.RefreshToken // never the initial one again: it may be spent
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

// exchange sends the refresh token, once more after a refusal that leaves it open what
// was refused.
func (r *RefreshToken) exchange(ctx context.Context, refresh string, before *dated) (*Token, error) {
	token, err := r.Endpoint.exchangeAfter(ctx, func(context.Context) (url.Values, error) {
		form := grantForm("refresh_token", r.Scopes)
		form.Set("refresh_token", refresh)
		return form, nil
	}, before)
	refusal, ok := err.(*EndpointError) // not errors.As: ClientAssertion may come from another endpoint
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
