package storetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// bounded returns a context with a deadline, like the one from Stored.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// put saves a value.
func put(t *testing.T, s tokensource.Store, key string, value []byte) {
	t.Helper()
	err := s.Update(bounded(t), key, func(_ []byte, save func([]byte) error) error { return save(value) })
	if err != nil {
		t.Fatalf("Update of key %q: got error %v; want a saved value", key, err)
	}
}

func load(t *testing.T, s tokensource.Store, key string) []byte {
	t.Helper()
	value, err := s.Load(bounded(t), key)
	if err != nil {
		t.Fatalf("Load of key %q: got error %v", key, err)
	}
	return value
}

// want checks what Load returns and what fn receives.
func want(t *testing.T, s tokensource.Store, key string, want []byte) {
	t.Helper()
	same(t, "Load of key "+key, load(t, s, key), want)
	calls := 0
	err := s.Update(bounded(t), key, func(value []byte, _ func([]byte) error) error {
		calls++
		same(t, "fn for key "+key, value, want)
		return nil
	})
	if err != nil || calls != 1 {
		t.Errorf("Update of key %q: got %d calls of fn, error %v; want 1, nil", key, calls, err)
	}
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Errorf("%s: got %s; want %s", what, brief(got), brief(want))
	}
}

func brief(value []byte) string {
	if value == nil {
		return "nil"
	}
	return fmt.Sprintf("%d bytes %.40q", len(value), value)
}
