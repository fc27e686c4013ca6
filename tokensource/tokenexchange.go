package tokensource

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
)

// TokenExchange exchanges a token for another (RFC 8693). Use it for a service that
// calls an API on behalf of its user, or that needs a token for another audience. Put a
// [Cache] over it. If Subject depends on the request's context, put a [Keyed] over it
// instead, with a key that determines everything that Subject reads: one Cache would
// give one user's token to another.
//
// The parameters resource and audience of section 2.1 belong in Endpoint.Params.
//
// Printed, logged or marshalled in any way, it shows no secret.
type TokenExchange struct {
	// Endpoint is the token endpoint, and how the client authenticates there.
	Endpoint Endpoint

	// Subject supplies the token of the user on whose behalf the new token is issued,
	// and is asked for each token request. Use a [Func] that finds the user's token in
	// the context, a [File], or a Cache. Such a Cache does not learn that the server
	// refuses its token: it uses the token until it expires.
	Subject Source

	// SubjectType is subject_token_type, a URI. Empty means an access token.
	SubjectType string

	// Actor supplies the token of the acting party, the service itself. Nil means none.
	Actor Source

	// ActorType is actor_token_type, a URI. Empty means an access token.
	ActorType string

	// RequestedType is requested_token_type, a URI. Empty leaves the choice to the
	// server.
	RequestedType string

	// Scopes are the scopes to request. None means the server's default.
	Scopes []string
}

// accessTokenType is the default of the types (RFC 8693 section 3).
const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// Token obtains a token and ignores old. The error names Subject or Actor if that
// returns no token or an expired one; otherwise it is one of [Endpoint.Exchange]. It
// wraps [ErrReauthenticate] if Subject needs a login: pass the login's token to Set of
// the Cache inside Subject.
//
// The token's type is N_A if the server has issued something other than an access token
// (section 2.2.1), such as an assertion for another server. It is never sent to an API.
func (t *TokenExchange) Token(ctx context.Context, old *Token) (*Token, error) {
	return t.Endpoint.exchange(ctx, t.form, nil)
}

func (t *TokenExchange) form(ctx context.Context) (url.Values, error) {
	form := grantForm("urn:ietf:params:oauth:grant-type:token-exchange", t.Scopes)
	setNonEmpty(form, "requested_token_type", t.RequestedType)
	subject, err := assertion(ctx, "TokenExchange.Subject", t.Subject)
	if err != nil {
		return nil, err
	}
	form.Set("subject_token", subject)
	form.Set("subject_token_type", cmp.Or(t.SubjectType, accessTokenType))
	if t.Actor == nil {
		return form, nil
	}
	actor, err := assertion(ctx, "TokenExchange.Actor", t.Actor)
	if err != nil {
		return nil, err
	}
	form.Set("actor_token", actor)
	form.Set("actor_token_type", cmp.Or(t.ActorType, accessTokenType))
	return form, nil
}

func (t *TokenExchange) fingerprint() []string {
	return t.Endpoint.fingerprint("token-exchange "+t.RequestedType, t.Scopes)
}

// String describes the endpoint, without a secret.
func (t TokenExchange) String() string { return "token exchange at the " + t.Endpoint.String() }

// Format writes [TokenExchange.String] for every verb.
func (t TokenExchange) Format(s fmt.State, verb rune) { io.WriteString(s, t.String()) }

// MarshalText returns [TokenExchange.String], so that JSON, XML and slog show no secret.
func (t TokenExchange) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
