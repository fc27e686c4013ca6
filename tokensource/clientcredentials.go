package tokensource

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// ClientCredentials obtains tokens for the client itself (RFC 6749 section 4.4). Put a
// [Cache] over it.
//
// Printed, logged or marshalled in any way, it shows no secret.
type ClientCredentials struct {
	// Endpoint is the token endpoint, and how the client authenticates there.
	Endpoint Endpoint

	// Scopes are the scopes to request. None means the server's default.
	Scopes []string
}

// Token obtains a token and ignores old. Its errors are those of [Endpoint.Exchange].
func (c *ClientCredentials) Token(ctx context.Context, old *Token) (*Token, error) {
	return c.Endpoint.Exchange(ctx, grantForm("client_credentials", c.Scopes))
}

func (c *ClientCredentials) fingerprint() []string {
	return c.Endpoint.fingerprint("client_credentials", c.Scopes)
}

// String describes the endpoint, without a secret.
func (c ClientCredentials) String() string {
	return "client credentials for the " + c.Endpoint.String()
}

// Format writes [ClientCredentials.String] for every verb.
func (c ClientCredentials) Format(s fmt.State, verb rune) {
	// The Format of Endpoint does not suffice: fmt skips it on the way to a field that
	// does not fit the verb.
	io.WriteString(s, c.String())
}

// MarshalText returns [ClientCredentials.String], so that JSON, XML and slog show no secret.
func (c ClientCredentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// grantForm begins the form of a token request.
func grantForm(kind string, scopes []string) url.Values {
	form := url.Values{"grant_type": {kind}}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	return form
}
