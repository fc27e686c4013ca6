package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A faultyStore has one fault, in one of its calls: a Load, an Update or a save.
type faultyStore struct {
	storetest.Memory
	kind  string
	at    int32
	calls atomic.Int32
}

// faults are what a call does in place of what it should.
var faults = map[string]func(ctx context.Context, done func() error) error{
	"fails":              func(context.Context, func() error) error { return errors.New("away") },
	"locked":             func(context.Context, func() error) error { return tokensource.ErrLocked },
	"loses the answer":   func(_ context.Context, done func() error) error { done(); return errors.New("away") },
	"loses the lock":     func(_ context.Context, done func() error) error { done(); return tokensource.ErrLocked },
	"hangs":              func(ctx context.Context, _ func() error) error { <-ctx.Done(); return ctx.Err() },
	"is slow":            func(_ context.Context, done func() error) error { time.Sleep(20 * time.Second); return done() },
	"a typed nil":        func(context.Context, func() error) error { return (*tokensource.StoreError)(nil) },
	"wraps a typed nil":  func(context.Context, func() error) error { return &tokensource.StoreError{Err: (*timeError)(nil)} },
	"panics":             func(context.Context, func() error) error { panic("boom") },
	"twice":              func(_ context.Context, done func() error) error { return errors.Join(done(), done()) },
	"an error of source": func(context.Context, func() error) error { return unavailable },
	"a login is needed":  func(context.Context, func() error) error { return tokensource.ErrReauthenticate },
}

type timeError struct{ text string }

func (e *timeError) Error() string { return e.text }

func (f *faultyStore) do(ctx context.Context, done func() error) error {
	if f.calls.Add(1) == f.at {
		return faults[f.kind](ctx, done)
	}
	return done()
}

func (f *faultyStore) Load(ctx context.Context, key string) (value []byte, err error) {
	err = f.do(ctx, func() (err error) {
		value, err = f.Memory.Load(ctx, key)
		return err
	})
	return value, err
}

func (f *faultyStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return f.do(ctx, func() error {
		return f.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
			return fn(value, func(data []byte) error { return f.do(ctx, func() error { return save(data) }) })
		})
	})
}

// logIn begins a login whose refresh token is the one that works.
func (f *family) logIn(t *testing.T, p process, n int32) error {
	f.current.Store(n)
	return p.Set(t.Context(), &Token{AccessToken: fmt.Sprint("login-", n), RefreshToken: fmt.Sprint("refresh-", n)})
}

// A fault may cost an answer, but never the login, if the process that knows it goes on.
func TestAFaultOfAnyCallOfTheStoreCostsNoLogin(t *testing.T) {
	for kind := range faults {
		for at, most := int32(1), int32(2); at < most; at++ {
			synctest.Test(t, func(t *testing.T) {
				store, server := &faultyStore{kind: kind, at: at}, new(family)
				a, b := newProcess(store, server), newProcess(store, server)
				server.logIn(t, a, 100)
				first, _ := a.Token(t.Context(), nil)
				a.Token(t.Context(), first)
				b.Token(t.Context(), nil)
				a.Forget(t.Context())
				time.Sleep(time.Minute)
				err := server.logIn(t, b, 200)
				time.Sleep(time.Minute)
				login, _ := b.Token(t.Context(), nil)
				a.Token(t.Context(), login)
				most = store.calls.Load()
				time.Sleep(10 * time.Minute)
				all := []process{a, b, newProcess(store, server)}
				if b.stored.Pending() { // it alone knows, until its next call
					all[0], all[1] = b, a
				}
				for _, p := range all {
					got, failed := p.Token(t.Context(), login)
					synctest.Wait() // for an early refresh
					if failed != nil || p.stored.Pending() || server.current.Load() <= 200 {
						t.Errorf("call %d of the store %s: Set returned %v, then got %v and %v, pending: %t, refresh token %d",
							at, kind, err, got, failed, p.stored.Pending(), server.current.Load())
					}
				}
			})
		}
	}
}
