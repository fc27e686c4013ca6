//go:build unix

package pgstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

var (
	processes = flag.Int("processes", 8, "how many processes share a refresh token while Postgres fails")
	rotations = flag.Int("rotations", 40, "how often they rotate it")
	whole     = flag.Bool("whole", false, "run the scenarios of storetest.Processes, too")
)

func TestProcesses(t *testing.T) {
	t.Parallel() // it waits a lot: the lock of a killed process must expire
	storetest.Processes(t, func(t *testing.T) string {
		if !*whole {
			t.Skip("-whole runs it")
		}
		return newServer(t).address()
	}, open)
}

// Sessions are terminated at random, processes are killed, and once the primary crashes and its
// replica is promoted.
func TestAFailoverWhileSessionsAndProcessesAreKilledLogsNobodyOut(t *testing.T) {
	t.Parallel() // it waits a lot
	var primary, replica *server
	address := func(t *testing.T) string {
		primary = newServer(t)
		replica = newReplica(t, primary)
		return primary.address(replica) + "&target_session_attrs=read-write"
	}
	failedOver := false
	storetest.Endure(t, *processes, *rotations, address, open, func(ctx context.Context) {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for n, s := 0, primary; ctx.Err() == nil; n++ {
			if n == *rotations/4 {
				primary.crash()
				replica.exec("SELECT pg_promote()")
				s, failedOver = replica, true
			}
			s.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	if primary != nil && !failedOver {
		t.Error("got no failover; want one")
	}
}

// newReplica starts a replica that has what the primary acknowledges.
func newReplica(t *testing.T, primary *server) *server {
	t.Helper()
	r := &server{t: t, dir: tempDir(t), port: programs.FreePort()}
	run(t, programs.Path(t, "pg_basebackup"), "-D", r.dir, "-R", "-c", "fast", "--no-sync",
		"-d", fmt.Sprintf("host=127.0.0.1 port=%s user=postgres application_name=replica", primary.port))
	r.start()
	primary.exec("ALTER SYSTEM SET synchronous_standby_names = 'replica'")
	primary.exec("SELECT pg_reload_conf()")
	primary.eventually(func() error {
		if state := primary.text("SELECT coalesce(max(sync_state), 'none') FROM pg_stat_replication"); state != "sync" {
			return fmt.Errorf("the replica is %s; want sync", state)
		}
		return nil
	})
	return r
}

// An exchange is under way while the primary crashes. A second process must not spend its refresh
// token, and what comes is saved.
func TestALockSurvivesAFailover(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	replica := newReplica(t, primary)
	store := open(primary.address(replica) + "&target_session_attrs=read-write")
	stores.Put(t, store, "k", "before")
	err := store.Update(stores.Background(t), "k", func(_ []byte, save func([]byte) error) error {
		primary.crash()
		replica.exec("SELECT pg_promote()")
		if err := replica.store().Update(stores.Background(t), "k", stores.Discard); !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("Update by another: got error %v; want ErrLocked", err)
		}
		return save([]byte("after"))
	})
	if err != nil {
		t.Errorf("got error %v; want nil", err)
	}
	stores.Want(t, store, "k", "after")
	stores.Put(t, replica.store(), "k", "the lock is free")
}

// What a replica has may be old.
func TestAReplicaIsAnError(t *testing.T) {
	t.Parallel()
	primary := newServer(t)
	stores.Put(t, primary.store(), "k", "there")
	replica := newReplica(t, primary)
	if value, err := replica.store().Load(stores.Background(t), "k"); err == nil {
		t.Errorf("Load: got value %q; want an error", value)
	}
	if err := replica.store().Update(stores.Background(t), "k", stores.Discard); err == nil {
		t.Error("Update: got no error; want one")
	}
}
