//go:build unix

package pgstore_test

import (
	"crypto/rand"
	"strings"
	"testing"

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
