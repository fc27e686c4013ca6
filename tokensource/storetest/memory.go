package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A Memory is a [tokensource.Store] in memory, for tests in which several Stored share
// it as if they were processes. It also works in a bubble of testing/synctest. The zero
// Memory is empty. You must not copy it after its first use.
//
// Printed in any way, it shows no value.
type Memory struct {
	mu     sync.Mutex // guards what follows, and is not held while fn runs
	values map[string][]byte
	locked map[string]bool
}

// Load returns the value of key, or ctx's error if ctx has ended.
func (m *Memory) Load(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.values[key]), nil
}

// Update calls fn with the lock of key. A save fails only after ctx has ended or the
// lock is gone.
func (m *Memory) Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error {
	value, err := m.lock(ctx, key)
	if err != nil {
		return err
	}
	over := false // guarded by m.mu
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		over = true
		delete(m.locked, key)
	}()
	return fn(value, func(value []byte) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if over {
			return tokensource.ErrLocked
		}
		return m.save(ctx, key, value)
	})
}

func (m *Memory) lock(ctx context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.locked[key] {
		return nil, tokensource.ErrLocked
	}
	if m.locked == nil {
		m.locked, m.values = make(map[string]bool), make(map[string][]byte)
	}
	m.locked[key] = true
	return bytes.Clone(m.values[key]), nil
}

// save replaces the value; m.mu is held.
func (m *Memory) save(ctx context.Context, key string, value []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.values[key] = append([]byte{}, value...) // saved, so not nil
	return nil
}

// Format writes the number of keys for every verb.
func (m *Memory) Format(s fmt.State, verb rune) {
	m.mu.Lock()
	defer m.mu.Unlock()
	io.WriteString(s, fmt.Sprintf("memory of %d keys", len(m.values)))
}
