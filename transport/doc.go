// Package transport keeps an http.Client authenticated.
//
// [Auth] is an http.RoundTripper. It adds the token of a tokensource.Source to each
// request. When the server refuses the token, it gets another and sends the
// request once more.
//
//	client := &http.Client{Transport: &transport.Auth{Source: source}}
//
// If tokens are bound to a key, put a [DPoP] below Auth.
//
// [Unauthorized] and [UnauthorizedOrForbidden] are rules for what counts as a
// refusal, and [HasJSON] is for rules about a body. [Challenges] reads what the
// server demands, and [Error] says why no token came.
package transport
