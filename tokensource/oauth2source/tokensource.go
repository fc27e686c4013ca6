package oauth2source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"golang.org/x/oauth2"

	"github.com/tokentripper/tokentripper/tokensource"
)

// TokenSource returns an oauth2.TokenSource over source, usually a [tokensource.Cache].
// It asks source with each call of Token, within ctx: once ctx ends, Token fails.
//
// The tokens have the type, the expiry, the scope and the other members of the reply as
// Extra, but no refresh token, because only source may spend it. A token that cannot be
// sent without a proof, of type DPoP, is an error.
//
// In an error, errors.As finds the *oauth2.RetrieveError that programs look for:
//
//   - The token endpoint's answer to the refresh. Its Response has the status and
//     Retry-After, and neither a body nor a request. Body is made from ErrorCode,
//     ErrorDescription and ErrorURI, in which source has redacted secrets.
//   - If a new login is needed for another reason, for example after a logout: the
//     status 400 with the ErrorCode invalid_grant, as a token endpoint would answer.
//
// The errors of source stay visible to errors.Is and errors.As, such as
// [tokensource.ErrReauthenticate].
//
// A TokenSource cannot learn that a server refuses its token. If source also serves a
// transport.Auth, it then learns that there. Code that puts an oauth2.ReuseTokenSource
// over it, as oauth2.NewClient does, keeps a token until shortly before its expiry,
// even if source has another by then.
func TokenSource(ctx context.Context, source tokensource.Source) oauth2.TokenSource {
	return &tokenSource{ctx: ctx, source: source}
}

type tokenSource struct {
	ctx    context.Context
	source tokensource.Source
	last   atomic.Pointer[converted]
}

// converted is a token in both forms.
type converted struct {
	from *tokensource.Token
	to   *oauth2.Token
}

func (s *tokenSource) Token() (*oauth2.Token, error) {
	token, err := s.source.Token(s.ctx, nil)
	if err != nil {
		return nil, retrieveError(err)
	}
	if last := s.last.Load(); last != nil && last.from == token {
		return last.to, nil
	}
	if _, err := token.Authorization(); err != nil {
		return nil, err
	}
	c := &converted{token, convert(token)}
	s.last.Store(c)
	return c.to, nil
}

func convert(t *tokensource.Token) *oauth2.Token {
	extra := map[string]any{}
	for name, value := range t.Extra {
		var v any
		if json.Unmarshal(value, &v) == nil {
			extra[name] = v
		}
	}
	if t.Scope != "" {
		extra["scope"] = t.Scope
	}
	token := &oauth2.Token{AccessToken: t.AccessToken, TokenType: t.TokenType, Expiry: t.Expiry}
	return token.WithExtra(extra)
}

// refusal is an error in which errors.As also finds retrieve.
type refusal struct {
	error
	retrieve *oauth2.RetrieveError
}

func (r *refusal) Unwrap() []error { return []error{r.error, r.retrieve} }

func retrieveError(err error) error {
	e, ok := errors.AsType[*tokensource.EndpointError](err)
	if !ok && errors.Is(err, tokensource.ErrReauthenticate) {
		e = &tokensource.EndpointError{StatusCode: http.StatusBadRequest, Code: "invalid_grant", Description: err.Error()}
	}
	if e == nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if e.RetryAfter > 0 {
		header.Set("Retry-After", fmt.Sprintf("%.0f", e.RetryAfter.Seconds()))
	}
	var body []byte
	if e.Code != "" {
		body, _ = json.Marshal(map[string]string{"error": e.Code, "error_description": e.Description, "error_uri": e.URI})
	}
	return &refusal{err, &oauth2.RetrieveError{
		Response: &http.Response{
			Status:     fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode)),
			StatusCode: e.StatusCode,
			Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: header,
			Body:   http.NoBody,
		},
		Body: body, ErrorCode: e.Code, ErrorDescription: e.Description, ErrorURI: e.URI,
	}}
}
