// Package tokentripper is the map of this module; it declares nothing. The
// examples below are whole programs to start from.
//
// The module keeps an http.Client authenticated. Two packages do it:
//
//   - [github.com/tokentripper/tokentripper/transport] has Auth, an
//     http.RoundTripper. It sends each request with a token. When the server
//     refuses the token, it asks for another and sends the request once more.
//   - [github.com/tokentripper/tokentripper/tokensource] has the sources of
//     tokens. A grant, or a function of your own, obtains them. A Cache over it
//     refreshes the token once for all callers.
//
// A third is for tests: [github.com/tokentripper/tokentripper/tokensource/tokentest]
// runs an authorization server and an API on loopback. A fourth tests the stores
// of tokens that others write:
// [github.com/tokentripper/tokentripper/tokensource/storetest].
//
//	your code
//	   │ client.Do(req)
//	http.Client ──▶ transport.Auth ──▶ (transport.DPoP) ──▶ any base RoundTripper ──▶ the API
//	                    │ Token(ctx, old)
//	                    ▼
//	             tokensource.Cache ──▶ (tokensource.Stored) ──▶ a grant, or your Func ──▶ the token endpoint
//
// Separate modules have stores for Stored: tokensource/filestore for the processes of
// one machine, tokensource/pgstore and tokensource/redisstore for many machines.
//
// To begin, you need an Auth, a Cache and one grant: see the example ClientCredentials.
package tokentripper
