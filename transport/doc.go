// Package transport keeps an http.Client authenticated.
//
// [Auth] is the http.RoundTripper that does it: it adds the token of a
// tokensource.Source to each request, and when the server refuses the token, it
// gets another and sends the request once more.
//
//	client := &http.Client{Transport: &transport.Auth{Source: source}}
//
// [DPoP] goes below it where tokens are bound to a key.
//
// The rest is for those who want to know why a response was refused:
// [Challenges] reads what the server demands, [Unauthorized] and
// [UnauthorizedOrForbidden] are the rules that Auth may go by, [HasJSON] is for
// rules about a body, and [Error] tells why no token came.
package transport
