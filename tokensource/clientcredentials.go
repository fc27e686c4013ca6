package tokensource

import (
	"context"
	"net/url"
	"strings"
)

// ClientCredentials obtains tokens for the client itself (RFC 6749 section 4.4).
// Put a [Cache] over it.
type ClientCredentials struct {
	// Endpoint is where, and as whom.
	Endpoint Endpoint

	// Scopes to ask for. None means the server's default.
	Scopes []string
}

// Token obtains a token, whatever old is. Its errors are those of [Endpoint.Exchange].
func (c *ClientCredentials) Token(ctx context.Context, old *Token) (*Token, error) {
	return c.Endpoint.Exchange(ctx, grant("client_credentials", c.Scopes))
}

// grant begins the form of a token request.
func grant(kind string, scopes []string) url.Values {
	form := url.Values{"grant_type": {kind}}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	return form
}
