// Package pgstore keeps the tokens of [tokensource.Stored] in Postgres, for processes
// on many machines. It needs Postgres 9.5 or later; the tests run 15. [CreateTable]
// makes the table. Make a [Store] and pass it to Stored.
//
// # The lock
//
// The row of a key says who holds its lock, and until when. An advisory lock or a row
// locked by SELECT FOR UPDATE would end with its connection: after a failover, a
// timeout of idle transactions or pg_terminate_backend, a second process would spend
// the refresh token that the first is exchanging. The price is that the lock of a
// killed process lasts until it expires.
//
// Each operation is one statement, which commits by itself. No transaction is open
// while a token is obtained, and a session keeps no state, so PgBouncer may be in
// transaction mode. Each statement may run twice. So a statement is sent again, at most
// two times, after a lost connection, a serialization failure or a timeout of the
// server, and while the server has no free connection or is starting.
//
// # While Postgres is unavailable
//
// A Store waits at most 5 s for an answer of Postgres. [tokensource.Stored] decides
// what happens then: every process goes on with its token as long as the token is good,
// and no refresh token is spent without the lock.
//
// # What Postgres may lose
//
// When a lock or a value is lost, two processes may spend the same refresh token, and
// strict servers end the login for that. To lose nothing:
//
//   - Leave synchronous_commit on, the default, for the role and the database. With
//     off, a crash may lose the saves of the last second.
//   - Replication is asynchronous by default: a failover may lose the last save and
//     lock. Name replicas in synchronous_standby_names, and promote one of these.
//   - Keep the clocks of all servers that may be promoted within a second of each
//     other.
//   - A restored backup brings an old refresh token back. Log in again after the
//     restore.
//
// Connect to the primary. With many hosts in the connection string, set
// target_session_attrs=read-write. A Store that is connected to a replica returns an
// error.
//
// The values are the tokens themselves. Backups, replicas and, if parameters are
// logged, the server's log contain them. Put [tokensource.Encrypted] over a Store, with
// a key that is kept elsewhere.
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/tokensource"
)

// CreateTable is the statement that makes the table, for your migrations. A Store needs
// the rights to SELECT, INSERT and UPDATE. You may delete rows that have not been
// locked for a while:
//
//	DELETE FROM tokentripper_tokens WHERE held_until < now() - interval '90 days'
const CreateTable = `CREATE TABLE IF NOT EXISTS tokentripper_tokens (
	key        text COLLATE "C" PRIMARY KEY,
	value      bytea,                -- NULL: none was saved
	holder     text,                 -- of the lock; NULL: nobody
	held_until timestamptz NOT NULL  -- when the lock ends, or has ended
)`

// A Store is a [tokensource.Store] in a table of Postgres. You must set Pool only.
//
// Errors hold nothing of a value. A Store is safe for concurrent use. You must not
// change its fields once it is in use.
type Store struct {
	// Pool connects to Postgres. You close it after the last call of the Store. An
	// Update holds no connection of Pool while fn runs.
	Pool *pgxpool.Pool

	// Table is the name of a table like that of CreateTable, for example tokens or
	// auth.tokens. Empty means tokentripper_tokens in the search_path.
	Table string
}

var _ tokensource.Store = (*Store)(nil)

// Bounds of waiting for Postgres.
const (
	patience = 5 * time.Second // for an answer, with all tries
	tries    = 3
	pause    = 100 * time.Millisecond // between them
)

var errReplica = errors.New("the server is a replica")

// Load returns the value of key, or nil if there is none.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	var replica bool
	var value []byte
	err := s.do(ctx, `SELECT pg_is_in_recovery(), (SELECT value FROM %[1]s WHERE key = $1)`, []any{key}, &replica, &value)
	if err == nil && replica {
		err = errReplica
	}
	if err != nil {
		return nil, fmt.Errorf("pgstore: load: %w", err)
	}
	return value, nil
}

// Update implements [tokensource.Store]. The lock lasts until 2 s after ctx's deadline,
// or for 30 s if ctx has none, even if the process is killed. If Postgres refuses to
// write the lock, fn is not called.
//
// save is one statement. It replaces the value if this call still holds the lock, and
// the value is the one that fn received or has saved. After a lost answer fn may call
// save again, with the same value or another.
//
// While Update takes the lock, it waits at most 5 s for Postgres, even if ctx ends.
func (s *Store) Update(ctx context.Context, key string, fn func(value []byte, save func([]byte) error) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	defer l.release(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	return fn(l.value(), func(value []byte) error { return l.save(ctx, value) })
}

// do runs a statement for the table, and repeats it if that may help. It scans the row,
// and returns pgx.ErrNoRows if there is none.
func (s *Store) do(ctx context.Context, statement string, args []any, row ...any) error {
	if s.Pool == nil {
		return errors.New("Store.Pool is nil")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	statement = fmt.Sprintf(statement, s.table())
	// This mode prepares no named statement, which PgBouncer would lose.
	args = append([]any{pgx.QueryExecModeExec}, args...)
	for try := 1; ; try++ {
		err := discreet(s.Pool.QueryRow(ctx, statement, args...).Scan(row...))
		switch {
		case err == nil || !transient(err):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case try == tries:
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

var errSilent = fmt.Errorf("no answer from Postgres within %v", patience)

func (s *Store) table() string {
	if s.Table == "" {
		return "tokentripper_tokens"
	}
	return pgx.Identifier(strings.Split(s.Table, ".")).Sanitize()
}

// discreet removes from an error what the server says about a row.
func discreet(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		e.Detail, e.Where = "", ""
	}
	return err
}

// transient reports whether another try may succeed.
func transient(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return !errors.Is(err, pgx.ErrNoRows) // a failure of the connection
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "08", // connection exception, also PgBouncer's
		"40", // transaction rollback: a serialization failure
		"53", // insufficient resources: too many connections
		"57": // operator intervention: terminated, a timeout, starting up
		return true
	}
	return false
}
