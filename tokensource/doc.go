// Package tokensource obtains access tokens and keeps them fresh.
//
// Everything in it is a [Source]. Some obtain tokens: from a token endpoint
// [ClientCredentials], [RefreshToken], [JWTBearer] and [TokenExchange]; without
// one [SignedJWT], [File], [Static], or a [Func] of your own. A [Cache] keeps the
// token of the Source below it and refreshes it once for everybody:
//
//	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
//		Endpoint: tokensource.Endpoint{
//			URL:          "https://id.example.com/oauth2/token",
//			ClientID:     "reports",
//			ClientSecret: os.Getenv("CLIENT_SECRET"),
//		},
//	}}
//
// Newcomers need the Cache and one grant. transport.Auth puts the token into
// requests. Others go in between: [Keyed] has a Cache for each tenant or user,
// and [Stored] below a Cache shares one token among many processes, in a
// [Store].
//
// A Source is safe for concurrent use. Its exported fields must not be changed
// once it is in use.
package tokensource
