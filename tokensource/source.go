package tokensource

import "context"

// A Source supplies tokens. It is safe for concurrent use.
type Source interface {
	// Token returns a token that differs from old, if it can. old is the token that
	// expired or that a server refused. Nil means that any good token will do.
	//
	// A Source that has no other token than old returns old again. The caller compares
	// AccessToken.
	Token(ctx context.Context, old *Token) (*Token, error)
}

// A setter is a Source that keeps tokens, and so receives the token of a login.
type setter interface {
	Set(ctx context.Context, token *Token) error
}

// A replacer is a Source that receives a token that came with an answer.
type replacer interface {
	Replace(ctx context.Context, old, next *Token) error
}

// A forgetter is a Source that receives a logout.
type forgetter interface {
	Forget(ctx context.Context) error
}

// A keeper is a Source that keeps the newest login, logout or token outside of this
// process. A wrapper around a [Stored] passes this method on, as it does Set and
// Forget.
type keeper interface {
	// Pending reports whether only this process has the newest state, and must not lose
	// it. A Set or Forget that fails leaves it pending, and the next call of Token
	// saves it.
	Pending() bool
}

// A looker is a Source that shares its token with other processes. Look reads what they
// have made of the token.
type looker interface {
	Look(ctx context.Context) error
}

// A spender is a Source that says whether it keeps refresh tokens to itself and spends
// them.
type spender interface{ Spends() bool }

// Func is a Source made from a function, for a login API of your own or the tokens of
// another library. Put a [Cache] over it, unless the function caches. For the first
// token, old is nil. If the first token comes by [Cache.Set], return
// [ErrReauthenticate] then.
//
// A [Stored] over it saves refresh tokens that rotate. To save them in another way,
// save the new token in the Func before you return it. Return it even if that failed,
// because the server has ended the previous one. A Source that does not show its
// refresh token in the Token needs a method Spends() bool that returns true, see
// [Stored.Unshared].
//
// Return an error that wraps [ErrReauthenticate] if only a new login can help. Return
// an [EndpointError] with RetryAfter if the function should not be called for a while.
type Func func(ctx context.Context, old *Token) (*Token, error)

// Token calls f.
func (f Func) Token(ctx context.Context, old *Token) (*Token, error) { return f(ctx, old) }

// Static returns a Source that always returns this token.
func Static(token *Token) Source {
	return Func(func(context.Context, *Token) (*Token, error) { return token, nil })
}
