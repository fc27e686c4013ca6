package mcpauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A login is one call of Auth.Login, for all requests that need it.
type login struct {
	done  chan struct{} // closed at the end
	err   error         // not nil until the login has succeeded
	until time.Time     // no other login before, unless this one has helped
}

// Bounds of logins.
const (
	loginTime  = 5 * time.Minute
	firstPause = 2 * time.Second // doubles up to
	doublings  = 6               // times
)

func (a *Auth) lastLogin() *login {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// logIn waits for a login that ends after before.
func (a *Auth) logIn(ctx context.Context, before *login, challenges []transport.Challenge) error {
	l := a.join(before, challenges)
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join returns the login in progress, one that has ended since before, or a new one.
func (a *Auth) join(before *login, challenges []transport.Challenge) *login {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(challenges) > 0 {
		a.challenges = challenges
	}
	switch {
	case a.current != nil:
		return a.current
	case a.last != before, a.unaccepted > 0 && time.Now().Before(a.last.until):
		return a.last
	}
	a.current = &login{done: make(chan struct{}), err: errors.New("mcpauth: Auth.Login called runtime.Goexit")}
	go a.run(a.current, a.challenges)
	return a.current
}

// run runs a login in its own goroutine, where no caller can recover.
func (a *Auth) run(l *login, challenges []transport.Challenge) {
	ctx, cancel := context.WithTimeout(context.Background(), loginTime)
	defer func() {
		cancel()
		if p := recover(); p != nil {
			l.err = fmt.Errorf("mcpauth: Auth.Login panicked: %v", p)
		}
		if l.err != nil {
			l.err = fmt.Errorf("%w: %w", tokensource.ErrReauthenticate, l.err)
		}
		a.finish(l)
	}()
	l.err = a.obtain(ctx, challenges)
}

func (a *Auth) finish(l *login) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l.until = time.Now().Add(firstPause << min(a.unaccepted, doublings))
	a.unaccepted++
	a.last, a.current = l, nil
	close(l.done)
}

// accepted notes that the server has accepted a token.
func (a *Auth) accepted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil || a.last.err == nil {
		a.unaccepted = 0
	}
}

// obtain makes the result of Login the current token.
func (a *Auth) obtain(ctx context.Context, challenges []transport.Challenge) error {
	d, err := a.discover(ctx, challenges)
	if err != nil {
		return err
	}
	if a.Login == nil {
		return errors.New("mcpauth: Auth.Login is nil")
	}
	scopes := slices.Clone(d.Scopes)
	token, err := a.Login(ctx, d)
	if err != nil {
		return err
	}
	if token == nil {
		return errors.New("mcpauth: Auth.Login returned neither a token nor an error")
	}
	err = a.tokens.Set(ctx, a.record(d, scopes).in(token))
	if now := a.tokens.Peek(ctx, nil); now != nil && now.AccessToken == token.AccessToken {
		return nil // even if the store has failed, to which the Cache comes back
	}
	return err
}
