// Package mcpauth keeps the client of an MCP server authenticated.
//
// MCP is the Model Context Protocol. Begin with [Auth], an http.RoundTripper for the
// Streamable HTTP transport of [github.com/modelcontextprotocol/go-sdk/mcp]. You supply
// a function that logs in, for instance by a browser, with what a [Discovery] says:
//
//	auth := &mcpauth.Auth{Server: endpoint, Login: login}
//	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
//		Endpoint:   endpoint,
//		HTTPClient: &http.Client{Transport: auth},
//	}, nil)
//
// Do not set StreamableClientTransport.OAuthHandler as well: requests then have an
// Authorization header of their own, and carry no token of Auth. A Timeout of the
// http.Client would end the standing stream, and bound the login.
package mcpauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// An Auth is an http.RoundTripper that keeps the client of one MCP server
// authenticated. It refreshes and sends requests again as [transport.Auth] does. When no
// refresh can help, it calls Login, once for all requests that wait, and then sends each
// of them once more. You must set Server and Login.
//
// Before the first login a request goes without a token. So a server that needs no
// login gets none, and the challenge of any other server says where to log in, by the
// rules of MCP's authorization: protected resource metadata (RFC 9728), then metadata of
// the authorization server (RFC 8414, OpenID Connect Discovery). Token requests
// have the parameter resource (RFC 8707). A refresh token goes only to the token endpoint
// that issued it. Login is also called, once for each scope, if the server demands a
// scope that was never requested (insufficient_scope, RFC 6750 section 3.1). Once 100
// scopes have been requested, another one is an error.
//
// If the server refuses the request nevertheless, Auth returns an error instead of the
// response: the SDK ends its session for a 401, or loses the server's notifications.
// After an error the session goes on.
//
// A login does not depend on the requests that wait for it. Each request leaves when
// its context ends. If a login fails, or the server accepts no token after it, the next
// one begins at the earliest 2 s later, and after more failures up to 2 minutes later.
// Until then, requests fail with the error of the last one. A DELETE, with which the SDK
// ends a session, begins no login.
//
// A token endpoint that answers 404 or 410 ends no login, because it may come back: the
// requests fail with an error that wraps a [*tokensource.EndpointError] with this status.
// If it has moved, call Forget of the Cache that the field Cache has returned. The next
// request finds the new endpoint and logs in.
//
// Auth is safe for concurrent use. You must not change its fields once it is in use.
type Auth struct {
	// Server is the URL of the MCP server, spelled as its metadata spell it. Its scheme
	// must be https, unless the host is loopback or AllowHTTP is set. Only requests to its
	// origin carry tokens.
	Server string

	// Login logs in at the authorization server that was found, and returns the first
	// token. It usually sends a browser to the authorization endpoint, with PKCE, and
	// passes the code to the Exchange method of the Discovery's Endpoint. If it registers
	// the client (RFC 7591), it sets the client's id and secret in that Endpoint. The
	// context ends after 5 minutes, and is that of no request. Login must return when it
	// ends, because no other login begins before.
	//
	// The operator of the MCP server chooses the authorization server. Before Login
	// sends a secret, it must check the Issuer.
	Login func(context.Context, *Discovery) (*tokensource.Token, error)

	// Endpoint says how this client authenticates at the token endpoint. Its URL and
	// Issuer must be empty, because discovery finds the token endpoint. Its Client also
	// fetches the metadata, as the SDK does: not from private addresses, unless its
	// Transport has a DialContext. The zero Endpoint is that of a client that Login
	// registers.
	Endpoint tokensource.Endpoint

	// Cache returns the Cache that keeps the token, over the source of the refreshes.
	// Use it to set other fields of the Cache, and to put a [tokensource.Stored] below
	// it, so that a login outlives the process. Give each Server a Key of its own: if the
	// stored token belongs to another Server, Auth sends and refreshes it nowhere, and
	// logs in. After Forget of that Cache, the next request logs in again. The function
	// is called once, by the first request. Nil means a Cache without further fields.
	Cache func(tokensource.Source) *tokensource.Cache

	// Base sends the requests, as [transport.Auth.Base] does. Nil means
	// http.DefaultTransport.
	Base http.RoundTripper

	// AllowHTTP allows unencrypted requests to carry tokens, as [transport.Auth.AllowHTTP]
	// does. The SDK reads metadata only by https or from a loopback address, so a Server
	// whose scheme is http must name an https URL of its metadata in the challenge.
	AllowHTTP bool

	// Refused reports whether a response refuses the token, as [transport.Auth.Refused]
	// does, for servers that say so otherwise than by 401. A request without a token needs
	// a login only if the answer is 401. Nil means [transport.Unauthorized].
	Refused func(*http.Response) bool

	made   sync.Once
	auth   *transport.Auth
	tokens *tokens

	mu         sync.Mutex            // guards what follows
	current    *login                // in progress, or nil
	last       *login                // the last one that has ended
	unaccepted int                   // logins since one that succeeded and whose token was accepted
	challenges []transport.Challenge // the last that demanded a login
}

// errRefused is the reason for a refusal that neither a refresh nor a login cures.
var errRefused = errors.New("mcpauth: the server refuses this client, and a login would not change that")

// RoundTrip sends the request with a token. If a login is needed, RoundTrip waits for
// it, and sends the request once more. Its own errors are of type [*transport.Error]. If
// the login fails, the error wraps [tokensource.ErrReauthenticate] and Login's error.
func (a *Auth) RoundTrip(req *http.Request) (*http.Response, error) {
	a.made.Do(a.prepare)
	if a.auth.Origins[0] == "" {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &transport.Error{Err: errors.New("mcpauth: Auth.Server is not an absolute URL, or has a user")}
	}
	before := a.lastLogin()
	resp, sent, err := a.send(req, req.Body)
	switch {
	case err == nil || req.Method == http.MethodDelete:
		return resp, err
	case errors.Is(err, tokensource.ErrReauthenticate):
	case errors.Is(err, errRefused) && sent.carries() && a.lastLogin() != before: // refused with an earlier token
	default:
		return nil, err
	}
	if e := a.logIn(req.Context(), before, sent.challenges); e != nil {
		return nil, notSentAgain(err, e)
	}
	body, e := bodyAgain(req)
	if e != nil {
		return nil, notSentAgain(err, e)
	}
	resp, _, err = a.send(req, body)
	return resp, err
}

// notSentAgain returns the error of a refused request that is not sent again.
func notSentAgain(refusal, reason error) error {
	e := &transport.Error{Err: reason}
	if r, ok := errors.AsType[*transport.Error](refusal); ok {
		e.StatusCode = r.StatusCode
	}
	return e
}

// prepare makes the parts on first use.
func (a *Auth) prepare() {
	source := refresher{a.Endpoint, a.Server}
	cache := &tokensource.Cache{Source: source}
	if a.Cache != nil {
		cache = a.Cache(source)
	}
	a.tokens = &tokens{Cache: cache, server: a.Server}
	a.auth = &transport.Auth{Source: a.tokens, Base: a.Base, Origins: []string{a.origin()}, AllowHTTP: a.AllowHTTP,
		Refused: a.refused, Anonymous: a.anonymous}
}

// origin returns the origin of the server, or nothing if Server has none: then all
// requests fail. An error could show the password of a user.
func (a *Auth) origin() string {
	u, err := url.Parse(a.Server)
	if err != nil || u.Host == "" || u.User != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// anonymous lets requests go without a token until there is a challenge.
func (a *Auth) anonymous(req *http.Request, _ bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	sent := sentBy(req.Context())
	sent.anonymous = a.current == nil && a.last == nil
	return sent.anonymous
}

// refused reports whether a response refuses the token.
func (a *Auth) refused(resp *http.Response) bool {
	refuses := a.Refused
	if refuses == nil {
		refuses = transport.Unauthorized
	}
	sent := sentBy(resp.Request.Context())
	sent.refused = refuses(resp)
	return sent.refused
}

// send sends the request, and makes an error of a refusal. The error wraps
// tokensource.ErrReauthenticate if a login may help, by what the challenges say.
func (a *Auth) send(req *http.Request, body io.ReadCloser) (*http.Response, *sent, error) {
	sent := new(sent)
	out := req.WithContext(context.WithValue(req.Context(), sentKey{}, sent))
	out.Body = body
	resp, err := a.auth.RoundTrip(out)
	if e, ok := errors.AsType[*transport.Error](err); ok {
		sent.challenges = e.Challenges
	}
	if err != nil {
		return nil, sent, err
	}
	resp.Request = req
	sent.challenges = sent.redacted(transport.Challenges(resp))
	if reason := a.refusal(req, resp, sent); reason != nil {
		resp.Body.Close()
		return nil, sent, &transport.Error{StatusCode: resp.StatusCode, Err: reason}
	}
	if resp.StatusCode < 400 && sent.tokens != nil {
		a.accepted()
	}
	return resp, sent, nil
}

// refusal returns the error that a response stands for, or nil.
func (a *Auth) refusal(req *http.Request, resp *http.Response, sent *sent) error {
	unauthorized := resp.StatusCode == http.StatusUnauthorized || sent.refused
	scopes, stepUp := insufficient(sent.challenges)
	stepUp = stepUp && sent.carries() && (unauthorized || resp.StatusCode == http.StatusForbidden)
	switch {
	case unauthorized && sent.anonymous:
		return tokensource.ErrReauthenticate
	case stepUp && a.lacks(req.Context(), scopes):
		return fmt.Errorf("%w: the server demands another scope", tokensource.ErrReauthenticate)
	case stepUp || unauthorized:
		return errRefused
	}
	return nil
}

// bodyAgain returns the body for another attempt.
func bodyAgain(req *http.Request) (io.ReadCloser, error) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return req.Body, nil
	case req.GetBody == nil:
		return nil, errors.New("mcpauth: logged in, but the request has no GetBody, so it cannot be sent again")
	}
	return req.GetBody()
}

// CloseIdleConnections closes the idle connections of Base, if Base can close them.
func (a *Auth) CloseIdleConnections() {
	a.made.Do(a.prepare)
	a.auth.CloseIdleConnections()
}

// Format writes the server and the type of Base for every verb. It shows no secret and
// reads nothing that changes concurrently.
func (a *Auth) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, "MCP server at %q over %T", a.origin(), a.Base)
}
