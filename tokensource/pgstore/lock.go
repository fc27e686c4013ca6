package pgstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/tokentripper/tokentripper/tokensource"
)

// Bounds of the lock's life.
const (
	grace       = 2 * time.Second  // beyond the deadline of the context
	defaultLife = 30 * time.Second // if there is no deadline
	releaseTime = 3 * time.Second
)

// A lock is the lock of a key, held by one Update.
type lock struct {
	store  *Store
	key    string
	holder string // not a counter, because after a failover another process may count to the same number

	// known is what the value may be, nil for none: the last value or, after a lost
	// answer, one that was to be saved. The last is the newest.
	known [][]byte
}

// The statements.
const (
	// Callers that try while the lock is held must neither write nor wait for a save.
	// So the statement reads first. ON CONFLICT is for callers that try at the same
	// moment.
	lockStatement = `INSERT INTO %[1]s AS t (key, holder, held_until)
		SELECT $1, $2, now() + $3 * interval '1 millisecond'
		WHERE NOT EXISTS (SELECT FROM %[1]s WHERE key = $1 AND holder <> $2 AND held_until > now())
		ON CONFLICT (key) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
		WHERE t.holder IS NULL OR t.holder = $2 OR t.held_until <= now()
		RETURNING value`

	// array_position also finds NULL.
	saveStatement = `UPDATE %[1]s SET value = $3
		WHERE key = $1 AND holder = $2 AND array_position($4::bytea[], value) IS NOT NULL
		RETURNING true`

	releaseStatement = `UPDATE %[1]s SET holder = NULL, held_until = now()
		WHERE key = $1 AND holder = $2
		RETURNING true`
)

// lock tries to take the lock. It does not stop when ctx ends, because a cancelled
// statement may still take the lock after the release.
func (s *Store) lock(ctx context.Context, key string) (*lock, error) {
	l := &lock{store: s, key: key, holder: rand.Text()}
	var value []byte
	err := s.do(context.WithoutCancel(ctx), lockStatement, []any{key, l.holder, life(ctx).Milliseconds()}, &value)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("pgstore: %w", tokensource.ErrLocked)
	case err != nil:
		l.release(ctx) // possibly only the answer was lost
		return nil, fmt.Errorf("pgstore: lock: %w", err)
	}
	l.known = [][]byte{value}
	return l, nil
}

// life returns how long the lock lasts from the moment when Postgres sets it.
func life(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLife
	}
	return time.Until(deadline) + grace
}

// value returns a copy of the value when the lock was taken, or nil if there was none.
func (l *lock) value() []byte {
	if l.known[0] == nil {
		return nil
	}
	return append([]byte{}, l.known[0]...)
}

// save replaces the value. It may be called again after an error: Postgres may have
// replaced the value although no answer came, or may do so later.
func (l *lock) save(ctx context.Context, value []byte) error {
	value = append([]byte{}, value...)
	l.known = append(l.known, value)
	err := l.store.do(ctx, saveStatement, []any{l.key, l.holder, value, l.known}, nil)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errLost
	case err != nil:
		return fmt.Errorf("pgstore: save: %w", err)
	}
	l.known = [][]byte{value}
	return nil
}

var errLost = fmt.Errorf("pgstore: the lock was lost, or the value was changed meanwhile: %w", tokensource.ErrLocked)

// release releases the lock if this lock still holds, even after the end of ctx. If it
// fails, the lock expires.
func (l *lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	l.store.do(ctx, releaseStatement, []any{l.key, l.holder}, nil)
}
