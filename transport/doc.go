// Package transport keeps an http.Client authenticated.
//
// Begin with [Auth], an http.RoundTripper. It adds the token of a tokensource.Source to
// each request. When the server refuses the token, Auth gets another one and sends the
// request once more. Put a [tokensource.Cache] over your source:
//
//	client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: source}}}
//
// If tokens are bound to a key, put a [DPoP] below Auth.
//
// [Unauthorized] and [UnauthorizedOrForbidden] are rules for what counts as a refusal;
// [HasJSON] is for rules about a body. [Challenges] reads what the server demands, and
// [Error] says why a request has no token.
package transport
