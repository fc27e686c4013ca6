// Package tokensource obtains access tokens and keeps them fresh.
//
// Everything in it is a [Source]. [ClientCredentials], [RefreshToken], [JWTBearer]
// and [TokenExchange] obtain tokens from a token endpoint. [SignedJWT], [File],
// [Static], or a [Func] of your own need none. A [Cache] keeps the token of the
// Source below it and refreshes it once for all callers:
//
//	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
//		Endpoint: tokensource.Endpoint{
//			URL:          "https://id.example.com/oauth2/token",
//			ClientID:     "reports",
//			ClientSecret: os.Getenv("CLIENT_SECRET"),
//		},
//	}}
//
// To begin, you need a Cache and one grant. transport.Auth adds the token to
// requests. Other parts go in between: a [Keyed] has a Cache for each tenant or
// user, and a [Stored] below a Cache shares one token among many processes, in a
// [Store].
//
// A Source is safe for concurrent use. Its exported fields must not be changed
// once it is in use.
package tokensource
