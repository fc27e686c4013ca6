package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tokentripper/tokentripper/internal/guard"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/replay"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Auth is an http.RoundTripper that sends each request with a token. When the server
// refuses the token, Auth asks its Source for another token and sends the request once
// more. You must set Source only.
//
// Two kinds of requests pass without a token and are not sent again: a request that
// already has an Authorization header, spelled canonically or in lower case, and a
// request that was redirected away from the origin (scheme, host and port) where it
// began, even if it returns there. With Origins, these origins decide instead. Auth
// never changes the caller's request, closes its body once, and sets the response's
// Request to the caller's.
//
// If the request has GetBody, the second attempt gets its body from GetBody. Any other
// body is recorded while it streams to the server, within MaxBody and MaxMemory. A body
// beyond these bounds is still sent, but only once: the caller gets the refusal
// unchanged. The caller also gets the refusal, unread, if the Source has no other
// token. The same is true when a server keeps refusing the tokens that its refusals
// cause: then they cause a refresh at most every 2 s, and later every 2 minutes.
//
// Base receives a request at most twice. Every method is sent again, including POST,
// because the server did not act on a request that it refused. A refused body of more
// than 8 KiB is sent again over another connection, because the server may be about to
// close the connection of the refusal. If that connection is already back in Base's
// pool, because the refusal has no body or came over HTTP/2, Auth closes all idle
// connections of Base. Each costs the next request to its host a handshake. A
// connection of HTTP/2 with other requests on it stays open. HTTP/3 needs no other
// connection.
//
// Auth is safe for concurrent use. You must not change its fields once it is in use.
type Auth struct {
	// Source supplies the tokens, usually from a [tokensource.Cache].
	Source tokensource.Source

	// Base sends the requests. Nil means http.DefaultTransport. Tokens of type DPoP
	// need a [DPoP] as Base, and a DPoP accepts only tokens of this type.
	Base http.RoundTripper

	// Origins, if not nil, lists the origins that get tokens, such as
	// "https://api.example.com". Every request to one of them carries a token, and no
	// other request does. If an entry is not an origin, every request fails.
	//
	// Set Origins if a layer above Auth builds new requests, because these lose the
	// chain of redirects.
	Origins []string

	// AllowHTTP allows unencrypted requests to carry tokens. Without it, a request with
	// a token fails if its scheme is not https, unless the host is localhost or a
	// loopback address and Base has no visible proxy on another machine.
	AllowHTTP bool

	// Refused reports whether a response refuses the token. It may report true for any
	// status, even 200. The request is then sent again, so the server must not have
	// acted on it. Refused must not change the response, nor read or close its Body,
	// because the caller gets both. [HasJSON] and [PeekJSON] look at JSON in the body.
	// Refused must be safe for concurrent use. Nil means [Unauthorized].
	Refused func(*http.Response) bool

	// NewToken returns the new token that a server sent with its answer, or nil if the
	// answer has none. It must not change the response or read its Body. The token goes
	// to the Source's Replace method, see [tokensource.Cache.Replace]. If the Source has
	// no Replace, or Replace fails, the caller still gets the answer. Nil means that
	// servers send no tokens.
	NewToken func(*http.Response) *tokensource.Token

	// Anonymous reports whether a request may go without a token when Source returns an
	// error that wraps [tokensource.ErrReauthenticate]. The caller gets the answer,
	// whatever it is: a challenge says where to log in (RFC 9728). Nil means never: the
	// request fails with the error.
	//
	// Parameter had reports whether Source has ever given this Auth a token. If Source
	// serves one user, return !had. Then requests go without a token until Source first
	// returns one in this process, and fail after a later logout or end of the login.
	// If Source serves many users, like a [tokensource.Keyed], had is true for all of
	// them once one has a token. Decide then by the user in the request's context.
	//
	// A request without a token is sent once, and its body is not recorded. It skips a
	// [DPoP] and goes to the Base of the DPoP. You cannot tell if a server answers it
	// with less data instead of a challenge.
	Anonymous func(req *http.Request, had bool) bool

	// MaxBody bounds the recording of one body, in bytes. Zero means 4 MiB. A negative
	// value means that bodies are not recorded. A larger body can still be sent again
	// if it is refused before MaxBody bytes of it were sent.
	MaxBody int64

	// MaxMemory bounds all recordings together, in bytes. Zero means 64 MiB. A Read
	// that is in progress when a response arrives is kept in addition.
	MaxMemory int64

	asker  guard.Asker[string]
	budget replay.Budget
}

// RoundTrip sends the request with a token, and once more if the server refuses the
// token. Its own errors are of type [*Error].
func (a *Auth) RoundTrip(req *http.Request) (*http.Response, error) {
	carries, err := a.carries(req)
	if err != nil {
		return a.fail(req, err)
	}
	if !carries {
		return answered(a.base(), req, req)
	}
	bearer, err := a.asker.Ask(req.Context(), a.Source, nil, a.authorization)
	if a.anonymous(req, err) {
		return answered(a.unproved(), req, req)
	}
	if err != nil {
		return a.fail(req, err)
	}
	body := replay.New(req, a.limits(), &a.budget)
	defer body.Done()
	resp, refused, err := a.send(req, replay.Next{Body: body.First(req), Trailer: req.Trailer}, bearer)
	if !refused {
		return resp, err
	}
	return a.again(req, resp, body, bearer)
}

// again handles a refusal: it makes the second attempt or returns the refusal itself.
func (a *Auth) again(req *http.Request, resp *http.Response, body *replay.Body, bearer *credentials) (*http.Response, error) {
	replayable := body.Hold(req)
	next, caused, err := a.asker.Another(req.Context(), a.Source, kindOf(req), bearer, a.authorization)
	if caused {
		defer a.asker.Tried()
	}
	if err != nil && replayable {
		body.Close()
		abandon(resp)
		return nil, refusedError(resp, bearer.Token.AccessToken, err)
	}
	if next == nil || !replayable { // a new token is for later requests
		if caused {
			a.asker.Untried(next.Token)
		}
		return resp, nil
	}
	second, err := body.Next(req)
	if err != nil {
		return resp, nil
	}
	discard(a.base(), resp, second)
	first := resp
	resp, refused, err := a.send(req, second, next)
	switch {
	case err != nil:
	case !refused && resp.StatusCode < 400:
		a.asker.Cured(kindOf(req), next.Token)
	case caused && refused:
		a.asker.Uncured(kindOf(req), next.Token)
	case caused:
		a.asker.Untried(next.Token)
	}
	if e, ok := err.(*Error); ok && e.StatusCode == 0 { // DPoP could not sign
		err = refusedError(first, bearer.Token.AccessToken, e.Err)
	}
	return resp, err
}

// send sends an attempt, and reports whether the response refuses the token.
func (a *Auth) send(req *http.Request, attempt replay.Next, c *credentials) (resp *http.Response, refused bool, err error) {
	out := withHeader(req, attempt.Body, attempt.Trailer, "Authorization", c.Value)
	resp, err = answered(a.base(), req, out)
	if err != nil {
		return nil, false, err
	}
	if a.NewToken != nil {
		a.take(req.Context(), a.NewToken(resp), c.Token)
	}
	refused = a.refuses(resp)
	resp = settled(resp)
	if !refused && resp.StatusCode < 400 && a.asker.Watches() { // other errors prove nothing about the token
		a.asker.Accepted(kindOf(req), c.Token)
	}
	return resp, refused, nil
}

// kindOf returns the kind of a request: its method and path, at its origin.
func kindOf(req *http.Request) guard.Kind {
	return guard.KindOf(origin.Of(req.URL), req.Method, req.URL.Path)
}

func (a *Auth) refuses(resp *http.Response) bool {
	if a.Refused != nil {
		return a.Refused(resp)
	}
	return Unauthorized(resp)
}

// take passes a token that came with a response to the Source.
func (a *Auth) take(ctx context.Context, next, token *tokensource.Token) {
	if next == nil || next.AccessToken == token.AccessToken {
		return
	}
	if s, ok := a.Source.(interface {
		Replace(ctx context.Context, old, next *tokensource.Token) error
	}); ok {
		s.Replace(ctx, token, next)
	}
}

// credentials are a token and the header's value made from it.
type credentials = guard.Credentials[string]

// authorization makes the header's value. A DPoP sends bound tokens only, and bound
// tokens go only through a DPoP: if a server issues an unbound token in reply to a
// proof, Auth does not use it (RFC 9449 section 5).
func (a *Auth) authorization(token *tokensource.Token) (string, error) {
	if _, proves := a.base().(*DPoP); !proves || token == nil {
		return token.Authorization()
	}
	if !strings.EqualFold(token.TokenType, "DPoP") {
		return "", errors.New("the token is not of type DPoP, and Auth.Base is a DPoP")
	}
	bearer := *token
	bearer.TokenType = "Bearer"
	value, err := bearer.Authorization()
	return strings.Replace(value, "Bearer", "DPoP", 1), err
}

// anonymous reports whether the request may go without a token after the Source's
// error.
func (a *Auth) anonymous(req *http.Request, err error) bool {
	return a.Anonymous != nil && errors.Is(err, tokensource.ErrReauthenticate) && a.Anonymous(req, a.asker.Asked())
}

// unproved returns the base for requests without a token, which need no proof.
func (a *Auth) unproved() http.RoundTripper {
	if d, ok := a.base().(*DPoP); ok {
		return d.base()
	}
	return a.base()
}

// fail returns an error for a request that is not sent.
func (a *Auth) fail(req *http.Request, err error) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, &Error{Err: err}
}

// CloseIdleConnections closes the idle connections of Base, if Base can close them.
func (a *Auth) CloseIdleConnections() { closeIdle(a.base()) }

// WrappedRoundTripper returns Base, or http.DefaultTransport if Base is nil. It is for
// code that looks for the [http.Transport] below its layers.
func (a *Auth) WrappedRoundTripper() http.RoundTripper { return a.base() }

// Format writes the types of Source and Base for every verb. It shows no secret and
// reads nothing that changes concurrently.
func (a *Auth) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "%T over %T", a.Source, a.base()) }

func (a *Auth) base() http.RoundTripper { return cmp.Or(a.Base, http.DefaultTransport) }

func (a *Auth) limits() replay.Limits {
	return replay.Limits{Body: cmp.Or(a.MaxBody, defaultMaxBody), Total: cmp.Or(a.MaxMemory, defaultMaxMemory)}
}

// Bounds of recordings.
const (
	defaultMaxBody   = 4 << 20
	defaultMaxMemory = 64 << 20
)
