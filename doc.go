// Package tokentripper is the map of this module; it declares nothing. The
// examples below are whole programs to start from. To begin, you need an Auth, a Cache
// and one grant: see the example ClientCredentials.
//
// The module keeps an http.Client authenticated:
//
//	your code
//	   │ client.Do(req)
//	http.Client ──▶ transport.Auth ──▶ (transport.DPoP) ──▶ any base RoundTripper ──▶ the API
//	                    │ Token(ctx, old)
//	                    ▼
//	             tokensource.Cache ──▶ (tokensource.Stored) ──▶ a grant, or your Func ──▶ the token endpoint
//
// Its packages, from the outside in. Those to use:
//
//   - [github.com/tokentripper/tokentripper/transport] has Auth, an
//     http.RoundTripper. It sends each request with a token. When the server
//     refuses the token, it asks for another and sends the request once more.
//   - transport/grpcauth, a module of its own, does this for the calls of gRPC.
//   - transport/mcpauth, a module of its own, logs in the client of an MCP server and keeps its session.
//   - [github.com/tokentripper/tokentripper/tokensource] has the sources of
//     tokens. A grant, or a function of your own, obtains them; a Cache over it
//     refreshes the token once for all callers.
//   - tokensource/filestore, a module of its own, keeps the tokens of a Stored in files, for the processes of one machine.
//   - tokensource/pgstore and tokensource/redisstore, modules of their own, keep them in Postgres and in Redis, for many machines.
//   - tokensource/oauth2source, a module of its own, connects with golang.org/x/oauth2, both ways.
//   - tokensource/oteltoken, a module of its own, records refreshes and requests with OpenTelemetry.
//   - [github.com/tokentripper/tokentripper/tokensource/storetest] tests a store that you write.
//   - [github.com/tokentripper/tokentripper/tokensource/tokentest] runs an
//     authorization server and an API on loopback, for your tests.
//
// What transport and tokensource rest on:
//
//   - internal/guard asks a Source after a refusal, and limits the refreshes when no token helps.
//   - internal/replay has a request body that can be sent twice.
//   - internal/lineage tells which of two stored records is the newest.
//   - internal/clock tells when a moment has come, even if a machine sleeps or its clock is set.
//   - internal/origin compares the places that a token may go to.
//   - internal/jws signs JSON Web Tokens.
//   - internal/proofsent tells a grant that its request was sent with a DPoP proof.
//
// What shows and proves them:
//
//   - internal/demo shows the library at work and draws a picture of it.
//   - internal/lab is the workshop: simulations, faults, real servers, measurements. It has a README.
//   - docs has the pages; docs/foreign compiles what they say about other modules.
package tokentripper
