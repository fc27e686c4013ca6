//go:build unix

package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
)

func TestTheLockOutlivesTheContext(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, life := range []time.Duration{time.Minute, 10 * time.Second, 0} {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		deadline := time.Now().Add(29 * time.Second)
		if life > 0 {
			ctx, cancel = context.WithTimeout(ctx, life)
			defer cancel()
			deadline, _ = ctx.Deadline()
		}
		err := s.store().Update(ctx, "k", func([]byte, func([]byte) error) error {
			in := s.text("SELECT (held_until BETWEEN $1 AND $1 + interval '10 s')::text FROM tokentripper_tokens WHERE holder <> ''", deadline)
			if in != "true" {
				t.Errorf("the context lives for %v: got a lock that ends before it or later than 10 s after it", life)
			}
			return nil
		})
		if err != nil {
			t.Errorf("got error %v; want nil", err)
		}
	}
}

// Whatever an administrator, a failover or the end of its time does to a lock.
func TestALockThatIsLostSavesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for what, lose := range map[string]func(){
		"taken by another": func() {
			s.exec("UPDATE tokentripper_tokens SET held_until = now()")
			stores.Put(t, s.store(), "k", "of another")
		},
		"held by another":   func() { s.exec("UPDATE tokentripper_tokens SET holder = 'another', value = 'of another'") },
		"released":          func() { s.exec("UPDATE tokentripper_tokens SET holder = NULL, value = 'of another'") },
		"the row removed":   func() { s.exec("DELETE FROM tokentripper_tokens"); stores.Put(t, s.store(), "k", "of another") },
		"the value changed": func() { s.exec("UPDATE tokentripper_tokens SET value = 'of another'") },
		"nothing, but no save": func() {
			s.exec("UPDATE tokentripper_tokens SET value = NULL")
			s.exec("UPDATE tokentripper_tokens SET value = 'of another'")
		},
	} {
		stores.Put(t, s.store(), "k", "before")
		err := s.store().Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
			if err := save([]byte("mine")); err != nil {
				t.Errorf("%s: first save: got error %v; want nil", what, err)
			}
			lose()
			return save([]byte("too late"))
		})
		if !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("%s: got error %v; want ErrLocked", what, err)
		}
		stores.Want(t, s.store(), "k", "of another")
		s.exec("UPDATE tokentripper_tokens SET holder = NULL")
	}
}

// A process slept, but no other has come.
func TestALockWhoseTimeIsOverStillSavesUntilAnotherHasIt(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	err := s.store().Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		s.exec("UPDATE tokentripper_tokens SET held_until = now() - interval '1 s'")
		return save([]byte("late"))
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
	stores.Want(t, s.store(), "k", "late")
}

// A transaction that writes has a number. Those who wait would write again and again.
func TestToLookAndToBeLockedOutWritesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := s.store()
	stores.Put(t, store, "k", "before")
	transactions := func() string { return s.text("SELECT txid_snapshot_xmax(txid_current_snapshot())::text") }
	err := store.Update(stores.Background(t), "k", func([]byte, func([]byte) error) error {
		before := transactions()
		for range 10 {
			stores.Want(t, store, "k", "before")
			if err := store.Update(stores.Background(t), "k", stores.Discard); !errors.Is(err, tokensource.ErrLocked) {
				t.Errorf("got error %v; want ErrLocked", err)
			}
		}
		if after := transactions(); after != before {
			t.Errorf("got transactions that write: %s to %s; want none", before, after)
		}
		return nil
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
}

func TestNoConnectionIsTakenWhileFnRuns(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	store := &pgstore.Store{Pool: newPool(t, strings.Replace(s.address(), "conns=2", "conns=1", 1))}
	err := store.Update(stores.Background(t), "a", func([]byte, func([]byte) error) error {
		stores.Put(t, store, "b", "beside")
		if n := s.text("SELECT count(*)::text FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"); n != "0" {
			t.Errorf("got %s open transactions; want 0", n)
		}
		return nil
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
	stores.Want(t, store, "b", "beside")
}

func TestAStoreThatCannotSaveDoesNotCallFn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec("CREATE ROLE reader LOGIN")
	s.exec("GRANT SELECT, INSERT ON tokentripper_tokens TO reader")
	reader := strings.Replace(s.address(), "postgres@", "reader@", 1)
	for what, store := range map[string]*pgstore.Store{
		"no pool":            {},
		"no table":           {Pool: s.pool(t), Table: "none.such"},
		"an odd name":        {Pool: s.pool(t), Table: `x"; DROP TABLE tokentripper_tokens; --`},
		"a reader":           {Pool: newPool(t, reader)},
		"read-only":          {Pool: newPool(t, s.address()+"&default_transaction_read_only=on")},
		"a server not up":    {Pool: newPool(t, strings.Replace(s.address(), s.port, programs.FreePort(), 1))},
		"a missing database": {Pool: newPool(t, strings.Replace(s.address(), "/postgres?", "/none?", 1))},
	} {
		t.Run(what, func(t *testing.T) {
			if err := stores.WantNoCall(t, store, "k"); !strings.HasPrefix(fmt.Sprint(err), "pgstore: ") {
				t.Errorf("got error %v; want one of pgstore", err)
			}
		})
	}
	stores.Put(t, s.store(), "k", "the table is there")
}

func TestATableInASchemaIsUsed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec("CREATE SCHEMA auth")
	s.exec(strings.Replace(pgstore.CreateTable, "tokentripper_tokens", "auth.tokens", 1))
	stores.Put(t, &pgstore.Store{Pool: s.pool(t), Table: "auth.tokens"}, "k", "there")
	stores.Want(t, s.store(), "k", "")
	if value := s.text("SELECT encode(value, 'escape') FROM auth.tokens WHERE key = 'k'"); value != "there" {
		t.Errorf("got value %q in auth.tokens; want %q", value, "there")
	}
}

// The server tells the row that violates a constraint.
func TestErrorsHoldNoValue(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec("ALTER TABLE tokentripper_tokens ADD CHECK (length(value) < 5)")
	err := s.store().Update(stores.Background(t), "k", stores.Saves("secret"))
	failure, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || failure.ConstraintName == "" {
		t.Fatalf("got error %v; want a violated constraint", err)
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", failure), fmt.Sprintf("%+v", *failure)} {
		if strings.Contains(text, "secret") || strings.Contains(text, fmt.Sprintf("%x", "secret")) {
			t.Errorf("got an error that holds the value: %s", text)
		}
	}
}

// The documented statement removes what nobody uses.
func TestRowsThatNobodyHasLockedForAWhileCanBeDeleted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	stores.Put(t, s.store(), "old", "old")
	s.exec("UPDATE tokentripper_tokens SET held_until = now() - interval '91 days'")
	stores.Put(t, s.store(), "new", "new")
	s.exec("DELETE FROM tokentripper_tokens WHERE held_until < now() - interval '90 days'")
	stores.Want(t, s.store(), "old", "")
	stores.Want(t, s.store(), "new", "new")
}
