package mcpauth

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A sent tells how a request was sent. The context of the request has it under sentKey.
type sent struct {
	anonymous  bool                  // without a token, though to the server
	tokens     []string              // that it carried, one after the other
	refused    bool                  // the last of them
	challenges []transport.Challenge // of the answer, without the tokens
}

type sentKey struct{}

// sentBy returns the sent of a request by its context, or nil.
func sentBy(ctx context.Context) *sent {
	s, _ := ctx.Value(sentKey{}).(*sent)
	return s
}

// carries reports whether Auth authenticates the request.
func (s *sent) carries() bool { return s.anonymous || s.tokens != nil }

// redacted removes the tokens from challenges that repeat them, except short ones, which
// may be part of other words.
func (s *sent) redacted(challenges []transport.Challenge) []transport.Challenge {
	for _, token := range s.tokens {
		if len(token) < 4 {
			continue
		}
		hide := strings.NewReplacer(token, "[redacted]", url.QueryEscape(token), "[redacted]")
		for _, c := range challenges {
			for name, value := range c.Params {
				c.Params[name] = hide.Replace(value)
			}
		}
	}
	return challenges
}

// tokens are those of a Cache that are for this server: a Store may have one for
// another.
type tokens struct {
	*tokensource.Cache
	server string
	last   atomic.Pointer[tokensource.Token] // is for this server
}

var errElsewhere = fmt.Errorf("%w: the token is for another MCP server", tokensource.ErrReauthenticate)

// Token implements tokensource.Source.
func (t *tokens) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	token, err := t.Cache.Token(ctx, old)
	if err == nil && !t.takes(ctx, token) {
		return nil, errElsewhere
	}
	return token, err
}

// Peek returns the token that is there, see [tokensource.Cache.Peek].
func (t *tokens) Peek(ctx context.Context, old *tokensource.Token) *tokensource.Token {
	token := t.Cache.Peek(ctx, old)
	if !t.takes(ctx, token) {
		return nil
	}
	return token
}

// takes reports whether a token is for this server, and notes that the request has it.
func (t *tokens) takes(ctx context.Context, token *tokensource.Token) bool {
	if token == nil {
		return true
	}
	if t.last.Load() != token {
		if r, known := recordOf(token); known && r.Server != t.server {
			return false
		}
		t.last.Store(token)
	}
	if s := sentBy(ctx); s != nil {
		s.tokens = append(s.tokens, token.AccessToken)
	}
	return true
}
