package transport

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/tokentripper/tokentripper/internal/replay"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Auth is an http.RoundTripper that sends each request with a token. When the
// server refuses the token, it asks its Source for another and sends the
// request once more. Only Source must be set.
//
// A request that carries an Authorization header already, in canonical form or
// in lower case, passes untouched, and so does one that was redirected to
// another origin (scheme, host and port) than it began at, with all that follows
// it: see Origins. The caller's request is never changed, its body is closed
// once, and the response's Request is the caller's.
//
// A body with GetBody is sent again from there. Any other is recorded while it
// streams to the server, within MaxBody and MaxMemory; past them the request
// goes on, but can't be sent again: the caller gets the refusal as it came. The
// caller also gets it, unread, if the Source has no other token, and if a
// server goes on refusing the tokens that its refusals cause: then a refresh
// takes place at most every 2 s, later every 2 minutes.
//
// A request goes to Base at most twice. The server did not act on what it
// refused, so every method is sent again, POST too. A refused body of more than
// 8 KiB goes over another connection, for the server may be about to close the
// one of the refusal. If that is back in Base's pool, because the refusal has no
// body or came over HTTP/2, Auth closes all idle connections of Base: each costs
// the next request to its host a handshake. A connection of HTTP/2 that other
// requests are on stays.
//
// Auth is safe for concurrent use; its fields must not be changed once it is in use.
type Auth struct {
	// Source supplies the tokens: as a rule a [tokensource.Cache].
	Source tokensource.Source

	// Base sends the requests. Nil means http.DefaultTransport. Tokens of type
	// DPoP need a [DPoP] here, and no others go there.
	Base http.RoundTripper

	// Origins, if not nil, lists where tokens may go, such as
	// "https://api.example.com": to all of these and nowhere else. An entry
	// that is not an origin fails every request.
	//
	// Set it if a layer above Auth builds new requests: that loses the chain of
	// redirects.
	Origins []string

	// AllowHTTP allows tokens to travel unencrypted. Without it, a request that
	// would send one by another scheme than https fails, unless the host is
	// localhost or a loopback address, and no proxy on another machine is seen
	// in Base.
	AllowHTTP bool

	// Refused reports whether a response refuses the token. It may read the body
	// by [HasJSON] and [PeekJSON] only. A refusal with another status than 401
	// counts like one, a 200 too: the request is sent again, so the server must
	// not have acted on it. Nil means [Unauthorized].
	Refused func(*http.Response) bool

	// NewToken returns the token that a server has sent along with its answer
	// because it refreshes by itself, or nil. It must not read the body. The
	// token goes to the Source's Replace, see [tokensource.Cache.Replace]. A
	// Source without Replace, or a Replace that fails, leaves the answer as it
	// is. Nil means that no server does this.
	NewToken func(*http.Response) *tokensource.Token

	// Anonymous reports whether a request may go without a token where Source
	// returns an error that wraps [tokensource.ErrReauthenticate]. The answer
	// reaches the caller, whatever it is: a challenge tells where to log in (RFC
	// 9728). Nil means never: the request fails with the error.
	//
	// Had tells whether Source has ever given this Auth a token. Where it serves one
	// user, return !had: then a request fails after a logout, or when the login has
	// ended. It goes without a token if that was before the process started. Where
	// it serves many, as with a [tokensource.Keyed], had is true for all of them once
	// one has a token: decide by what the request's context says of its user.
	//
	// Such a request is sent once, its body is not recorded, and it passes by a
	// [DPoP] to the Base of that. A server that answers it with less, in place of a
	// challenge, gives no sign of it.
	Anonymous func(req *http.Request, had bool) bool

	// MaxBody bounds the recording of one body, in bytes. Zero means 4 MiB;
	// less means that bodies are not recorded. A larger body that is refused
	// before this much of it was sent can still be sent again.
	MaxBody int64

	// MaxMemory bounds all recordings together, in bytes. Zero means 64 MiB. A
	// Read that is in progress when a response arrives is kept beside it.
	MaxMemory int64

	last   atomic.Pointer[credentials]
	budget replay.Budget
	guard  guard
}

// RoundTrip sends the request with a token, and once more if that is refused.
// Its own errors are of type [*Error].
func (a *Auth) RoundTrip(req *http.Request) (*http.Response, error) {
	carries, err := a.carries(req)
	if err != nil {
		return a.fail(req, err)
	}
	if !carries {
		return answered(a.base(), req, req)
	}
	bearer, err := a.ask(req.Context(), nil)
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
		body.Release()
		return resp, err
	}
	return a.again(req, resp, body, bearer)
}

// again answers a refusal: with a second attempt, or with the refusal itself.
func (a *Auth) again(req *http.Request, resp *http.Response, body *replay.Body, bearer *credentials) (*http.Response, error) {
	replayable := body.Hold(req)
	next, caused, err := a.another(req, bearer)
	if caused {
		defer a.guard.tried()
	}
	if err != nil && replayable {
		body.Close()
		abandon(resp)
		return nil, refusedError(resp, bearer.token.AccessToken, err)
	}
	if next == nil || !replayable { // a new token is for those who come next
		if caused {
			a.guard.untried(next.token)
		}
		body.Release()
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
		a.guard.cured(req, next.token)
	case caused && refused:
		a.guard.uncured(req, next.token)
	case caused:
		a.guard.untried(next.token)
	}
	if e, ok := err.(*Error); ok && e.StatusCode == 0 { // DPoP could not sign
		err = refusedError(first, bearer.token.AccessToken, e.Err)
	}
	return resp, err
}

// another returns other credentials than those that were refused, and whether
// the refusal caused them: as far as Auth can tell, nobody had them before. Nil
// means that there are none, or that the guard does not let the Source be asked.
func (a *Auth) another(req *http.Request, old *credentials) (next *credentials, caused bool, err error) {
	ctx, last := req.Context(), a.last.Load()
	s, peeks := a.Source.(peeker)
	if peeks {
		if token := s.Peek(ctx, old.token); token != nil && token.AccessToken != old.token.AccessToken {
			next, err = a.credentials(token)
			return next, false, err
		}
	}
	guarded := !peeks || s.Peek(ctx, nil) != nil // else the next token is due anyway
	if guarded && !a.guard.allows(req, old.token) {
		return nil, false, nil
	}
	next, err = a.ask(ctx, old.token)
	if err != nil || next.token.AccessToken == old.token.AccessToken {
		return nil, false, err
	}
	caused = guarded && next.token.AccessToken != last.token.AccessToken
	if caused {
		a.guard.caused(old.token, next.token)
	}
	return next, caused, nil
}

// A peeker is a Source that tells which token it has, without asking for one:
// see [tokensource.Cache.Peek].
type peeker interface {
	Peek(ctx context.Context, old *tokensource.Token) *tokensource.Token
}

// send sends an attempt, and reports whether the response refuses the token.
func (a *Auth) send(req *http.Request, attempt replay.Next, c *credentials) (resp *http.Response, refused bool, err error) {
	out := withHeader(req, attempt.Body, attempt.Trailer, "Authorization", c.header)
	resp, err = answered(a.base(), req, out)
	if err != nil {
		return nil, false, err
	}
	if a.NewToken != nil {
		a.take(req.Context(), a.NewToken(resp), c.token)
	}
	refused = a.refuses(resp)
	resp = settled(resp)
	if !refused && resp.StatusCode < 400 { // other errors prove no token
		a.guard.accepted(req, c.token)
	}
	return resp, refused, nil
}

func (a *Auth) refuses(resp *http.Response) bool {
	if a.Refused != nil {
		return a.Refused(resp)
	}
	return Unauthorized(resp)
}

// take hands a token that came with a response to the Source.
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

// Credentials are a token and the header's value that was made of it.
type credentials struct {
	token  *tokensource.Token
	header string
}

// ask asks the Source for another token than old.
func (a *Auth) ask(ctx context.Context, old *tokensource.Token) (*credentials, error) {
	if a.Source == nil {
		return nil, errors.New("Auth.Source is nil")
	}
	token, err := a.Source.Token(ctx, old)
	if err != nil {
		return nil, err
	}
	return a.credentials(token)
}

// credentials returns those of a token. The last are remembered, so that the next
// request with the token need not make them.
func (a *Auth) credentials(token *tokensource.Token) (*credentials, error) {
	if last := a.last.Load(); last != nil && last.token == token {
		return last, nil
	}
	header, err := a.authorization(token)
	if err != nil {
		return nil, err
	}
	c := &credentials{token, header}
	a.last.Store(c)
	a.guard.see(token)
	return c, nil
}

// authorization makes the header's value. A token that is bound to a key goes
// with proofs, and no other does: a server that hands out less than it was asked
// for is not obeyed (RFC 9449 section 5).
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

// anonymous reports whether the request may go without the token that did not come.
func (a *Auth) anonymous(req *http.Request, err error) bool {
	return a.Anonymous != nil && errors.Is(err, tokensource.ErrReauthenticate) && a.Anonymous(req, a.last.Load() != nil)
}

// unproved is the base for requests without a token: there is nothing to prove.
func (a *Auth) unproved() http.RoundTripper {
	if d, ok := a.base().(*DPoP); ok {
		return d.base()
	}
	return a.base()
}

// fail refuses to send the request.
func (a *Auth) fail(req *http.Request, err error) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, &Error{Err: err}
}

// CloseIdleConnections closes the idle connections of Base, if it can.
func (a *Auth) CloseIdleConnections() { closeIdle(a.base()) }

// WrappedRoundTripper returns Base, or what is used where it is nil, for code
// that looks for the [http.Transport] below its layers.
func (a *Auth) WrappedRoundTripper() http.RoundTripper { return a.base() }

// Format writes the types of Source and Base, whatever the verb: no secret, and
// nothing that changes meanwhile.
func (a *Auth) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "%T over %T", a.Source, a.base()) }

func (a *Auth) base() http.RoundTripper {
	if a.Base != nil {
		return a.Base
	}
	return http.DefaultTransport
}

func (a *Auth) limits() replay.Limits {
	l := replay.Limits{Body: a.MaxBody, Total: a.MaxMemory}
	if l.Body == 0 {
		l.Body = defaultMaxBody
	}
	if l.Total == 0 {
		l.Total = defaultMaxMemory
	}
	return l
}

// Bounds of recordings.
const (
	defaultMaxBody   = 4 << 20
	defaultMaxMemory = 64 << 20
)
