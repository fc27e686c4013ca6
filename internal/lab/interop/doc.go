// Package interop proves that the library works with an authorization server
// that was written without it: github.com/ory/fosite, run in process over its
// own in-memory store. It has nothing but tests, and a module of its own, so that
// fosite is no dependency of the library.
//
// Covered are the grants client_credentials, authorization_code (through
// tokensource.Endpoint.Exchange), refresh_token with rotation, and jwt-bearer
// (RFC 7523 section 2.1); client authentication by client_secret_basic,
// client_secret_post, private_key_jwt and none; revocation (RFC 7009). The API
// behind transport.Auth asks fosite's introspection about each token.
//
// Fosite v0.49.0 has neither token exchange (RFC 8693) nor DPoP (RFC 9449), so
// nothing here speaks for these.
package interop
