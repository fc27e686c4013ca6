// Package tokensource obtains access tokens and keeps them fresh.
//
// Begin with a [Cache] and one grant, such as [ClientCredentials]. The Cache keeps the
// token of the Source below it and refreshes it once for all callers:
//
//	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
//		Endpoint: tokensource.Endpoint{
//			URL:          "https://id.example.com/oauth2/token",
//			ClientID:     "reports",
//			ClientSecret: os.Getenv("CLIENT_SECRET"),
//		},
//	}}
//
// transport.Auth adds the token to requests.
//
// Everything that supplies tokens is a [Source]. ClientCredentials, [RefreshToken],
// [JWTBearer] and [TokenExchange] obtain tokens from a token endpoint. [SignedJWT],
// [File], [Static] and a [Func] of your own need no token endpoint. Other parts go in
// between: a [Keyed] has a Cache for each tenant or user, and a [Stored] below a Cache
// shares one token among many processes, in a [Store].
//
// A Source is safe for concurrent use. You must not change its exported fields once it
// is in use.
package tokensource
