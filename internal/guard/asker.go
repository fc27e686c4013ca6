// Package guard asks a Source for tokens after refusals, and limits the refreshes that
// refusals cause when no token helps.
package guard

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Credentials are a token and the value made from it that requests carry.
type Credentials[V any] struct {
	Token *tokensource.Token
	Value V
}

// An Asker asks a Source for tokens, and its Guard whether a refusal may cause a
// refresh. The zero Asker is ready for use. An Asker has one Source and one function
// that makes the values, given with each call.
type Asker[V any] struct {
	Guard
	last atomic.Pointer[Credentials[V]]
}

// Asked reports whether the Source has ever returned a token.
func (a *Asker[V]) Asked() bool { return a.last.Load() != nil }

// Ask asks the Source for another token than old.
func (a *Asker[V]) Ask(ctx context.Context, s tokensource.Source, old *tokensource.Token, make Maker[V]) (*Credentials[V], error) {
	if s == nil {
		return nil, errors.New("Auth.Source is nil")
	}
	token, err := s.Token(ctx, old)
	if err != nil {
		return nil, err
	}
	return a.credentials(token, make)
}

// A Maker makes the value that carries a token.
type Maker[V any] = func(*tokensource.Token) (V, error)

// credentials returns the credentials of a token. It remembers the last ones, so that
// the next request with the same token need not make them again.
func (a *Asker[V]) credentials(token *tokensource.Token, make Maker[V]) (*Credentials[V], error) {
	if last := a.last.Load(); last != nil && last.Token == token {
		return last, nil
	}
	value, err := make(token)
	if err != nil {
		return nil, err
	}
	c := &Credentials[V]{token, value}
	a.last.Store(c)
	a.see(token)
	return c, nil
}

// Another returns other credentials than the refused ones, and whether the refusal
// caused them: as far as the Asker can tell, no request had them before. Then the
// caller reports to Tried, and to one of Cured, Uncured and Untried. Nil means that the
// Source has no other token, or that the Guard does not allow asking the Source.
func (a *Asker[V]) Another(ctx context.Context, s tokensource.Source, k Kind, old *Credentials[V], make Maker[V]) (next *Credentials[V], caused bool, err error) {
	last := a.last.Load()
	p, peeks := s.(peeker)
	if peeks {
		if token := p.Peek(ctx, old.Token); token != nil && token.AccessToken != old.Token.AccessToken {
			next, err = a.credentials(token, make)
			return next, false, err
		}
	}
	guarded := !peeks || p.Peek(ctx, nil) != nil // else the next token is due anyway
	if guarded && !a.allows(k, old.Token) {
		return nil, false, nil
	}
	next, err = a.Ask(ctx, s, old.Token, make)
	if err != nil || next.Token.AccessToken == old.Token.AccessToken {
		return nil, false, err
	}
	caused = guarded && next.Token.AccessToken != last.Token.AccessToken
	if caused {
		a.caused(old.Token, next.Token)
	}
	return next, caused, nil
}

// A peeker is a Source that returns the token that it has without obtaining one, see
// [tokensource.Cache.Peek].
type peeker interface {
	Peek(ctx context.Context, old *tokensource.Token) *tokensource.Token
}
