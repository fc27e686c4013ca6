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

// The lock's life.
const (
	grace       = 2 * time.Second  // beyond the deadline of the context
	defaultLife = 30 * time.Second // where there is no deadline
	releaseTime = 3 * time.Second
)

// A lock is the lock of a key, held by one Update.
type lock struct {
	store  *Store
	key    string
	holder string // not a number that counts: after a failover, another process may count to the same

	// known is what the value may be, nil for none: what was there last or, where an answer
	// was lost, what was to be saved. The last is the newest.
	known [][]byte
}

// The statements.
const (
	// Others who look while the lock is held must not write, nor wait for who saves. So they
	// read first. ON CONFLICT is for those who come at the same moment.
	lockStatement = `INSERT INTO %[1]s AS t (key, holder, held_until)
		SELECT $1, $2, now() + $3 * interval '1 millisecond'
		WHERE NOT EXISTS (SELECT FROM %[1]s WHERE key = $1 AND holder <> $2 AND held_until > now())
		ON CONFLICT (key) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
		WHERE t.holder IS NULL OR t.holder = $2 OR t.held_until <= now()
		RETURNING value`

	// array_position finds NULL, too.
	saveStatement = `UPDATE %[1]s SET value = $3
		WHERE key = $1 AND holder = $2 AND array_position($4::bytea[], value) IS NOT NULL
		RETURNING true`

	releaseStatement = `UPDATE %[1]s SET holder = NULL, held_until = now()
		WHERE key = $1 AND holder = $2
		RETURNING true`
)

// lock tries to take the lock. It does so to the end, whatever becomes of ctx: a lock whose
// statement is cancelled may be taken all the same, later than it is released.
func (s *Store) lock(ctx context.Context, key string) (*lock, error) {
	l := &lock{store: s, key: key, holder: rand.Text()}
	var value []byte
	err := s.do(context.WithoutCancel(ctx), lockStatement, []any{key, l.holder, life(ctx).Milliseconds()}, &value)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, fmt.Errorf("pgstore: %w", tokensource.ErrLocked)
	case err != nil:
		l.release(ctx) // it may be an error of the answer alone
		return nil, fmt.Errorf("pgstore: lock: %w", err)
	}
	l.known = [][]byte{value}
	return l, nil
}

// life returns how long the lock lives, from the moment that Postgres sets it.
func life(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLife
	}
	return time.Until(deadline) + grace
}

// value returns a copy of what was there when the lock was taken; nil if there was none.
func (l *lock) value() []byte {
	if l.known[0] == nil {
		return nil
	}
	return append([]byte{}, l.known[0]...)
}

// save replaces the value. It may be called again after an error: the value may have been
// replaced although no answer came, and may be so late.
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

// release gives the lock up if it is still this one, whatever has become of ctx. If it
// fails, the lock's time runs out.
func (l *lock) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	l.store.do(ctx, releaseStatement, []any{l.key, l.holder}, nil)
}
