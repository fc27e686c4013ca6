// Package stores has what the tests of the stores share.
package stores

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Background has a deadline, as a context of Stored has.
func Background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Saves is for Update: it saves one value.
func Saves(value string) func([]byte, func([]byte) error) error {
	return func(_ []byte, save func([]byte) error) error { return save([]byte(value)) }
}

// Discard is for Update: it saves nothing.
func Discard([]byte, func([]byte) error) error { return nil }

// Put saves one value.
func Put(t testing.TB, s tokensource.Store, key, value string) {
	t.Helper()
	if err := s.Update(Background(t), key, Saves(value)); err != nil {
		t.Fatalf("saving %q: %v", value, err)
	}
}

// Want checks the value of the key.
func Want(t testing.TB, s tokensource.Store, key, value string) {
	t.Helper()
	got, err := s.Load(Background(t), key)
	if err != nil || string(got) != value {
		t.Errorf("got value %q of %q, error %v; want %q", got, key, err, value)
	}
}

// WantNoCall checks that an Update fails before it calls fn, and not because
// another process has the lock. It returns the error.
func WantNoCall(t testing.TB, s tokensource.Store, key string) error {
	t.Helper()
	err := s.Update(Background(t), key, func([]byte, func([]byte) error) error {
		t.Error("fn was called")
		return nil
	})
	if err == nil || errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("got error %v, want one of the server or the network", err)
	}
	return err
}

// SaveAgain checks that save can be called again, with the same value or another,
// when it is unknown whether the first save came through. Lose loses all answers to
// the first.
func SaveAgain(t testing.TB, s tokensource.Store, key, second string, lose func()) {
	t.Helper()
	err := s.Update(Background(t), key, func(_ []byte, save func([]byte) error) error {
		lose()
		if err := save([]byte("after")); err == nil || errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("first save: got error %v, want one of the network", err)
		}
		if err := save([]byte(second)); err != nil {
			t.Errorf("save of %q: got error %v, want nil", second, err)
		}
		return save([]byte("at last"))
	})
	if err != nil {
		t.Errorf("got error %v, want nil", err)
	}
	Want(t, s, key, "at last")
}
