//go:build unix

package pgstore_test

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	storetest.Run(t, s.places(func(*testing.T) *pgxpool.Pool { return s.admin })) // a connection of each would take a while
}

// The server is that of a strict administrator, too: sessions that idle in a transaction end at
// once, and statements that meet each other fail.
func TestContractThroughPgBouncerInTransactionMode(t *testing.T) {
	t.Parallel()
	s := newServer(t, "default_transaction_isolation=serializable",
		"idle_in_transaction_session_timeout=10ms", "statement_timeout=2s", "lock_timeout=1s")
	b := newBouncer(t, s)
	storetest.Run(t, b.places(func(t *testing.T) *pgxpool.Pool { return b.pool(t) }))
}

// places returns what storetest.Run needs: each place is a table of its own.
func (s *server) places(pool func(*testing.T) *pgxpool.Pool) func(*testing.T) func() tokensource.Store {
	return func(t *testing.T) func() tokensource.Store {
		table := "tokens_" + strings.ToLower(rand.Text())
		s.exec(strings.Replace(pgstore.CreateTable, "tokentripper_tokens", table, 1))
		return func() tokensource.Store { return &pgstore.Store{Pool: pool(t), Table: table} }
	}
}

// background has a deadline, as a context of Stored has.
func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// put saves one value.
func put(t testing.TB, s tokensource.Store, key, value string) {
	t.Helper()
	err := s.Update(background(t), key, func(_ []byte, save func([]byte) error) error { return save([]byte(value)) })
	if err != nil {
		t.Fatalf("saving %q: %v", value, err)
	}
}

// want checks the value of the key.
func want(t testing.TB, s tokensource.Store, key, value string) {
	t.Helper()
	got, err := s.Load(background(t), key)
	if err != nil || string(got) != value {
		t.Errorf("got value %q of %q, error %v; want %q", got, key, err, value)
	}
}
