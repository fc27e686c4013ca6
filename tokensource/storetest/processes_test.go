package storetest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestAStoreOfAnotherProcessIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		address := serveMemory(t)
		return func() tokensource.Store { return netStore(address) }
	})
}

// netStoreEnv makes the process the parent of workers, and names the store.
const netStoreEnv = "STORETEST_NETSTORE"

var netStores = map[string]func(address string) tokensource.Store{
	"good":                     func(address string) tokensource.Store { return netStore(address) },
	"has no lock":              func(address string) tokensource.Store { return lockless{netStore(address)} },
	"saves later than it says": func(address string) tokensource.Store { return lazy{netStore(address)} },
}

// Each is run in short, in a process of its own, for its workers run the test again.
func TestProcesses(t *testing.T) {
	if open := netStores[os.Getenv(netStoreEnv)]; open != nil {
		storetest.Processes(t, serveMemory, open)
		return
	}
	for _, c := range []struct{ store, fails string }{
		{"good", ""},
		{"has no lock", "the first use of an empty store obtains one token"},
		{"has no lock", "tokens that are revoked are rotated once for all"},
		{"saves later than it says", "killed processes do not keep the others from going on"},
	} {
		t.Run(strings.TrimSuffix(c.store+", "+c.fails, ", "), func(t *testing.T) { runTest(t, c.store, "TestProcesses", c.fails) })
	}
}

func TestEndure(t *testing.T) {
	if open := netStores[os.Getenv(netStoreEnv)]; open != nil {
		t.Run("disturbed", func(t *testing.T) {
			storetest.Endure(t, 8, 20, serveMemory, open, func(ctx context.Context) { <-ctx.Done() })
		})
		return
	}
	t.Run("good", func(t *testing.T) { runTest(t, "good", "TestEndure", "") })
	t.Run("has no lock", func(t *testing.T) { runTest(t, "has no lock", "TestEndure", "disturbed") })
}

// runTest runs a test, and expects that one subtest fails, or that all succeed.
func runTest(t *testing.T, store, test, fails string) {
	fails = strings.ReplaceAll(fails, " ", "_")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.short", "-test.v", "-test.timeout=5m",
		"-test.run=^"+test+"$/^"+regexp.QuoteMeta(fails))
	cmd.Env = append(os.Environ(), netStoreEnv+"="+store)
	out, err := cmd.CombinedOutput()
	switch failed, ok := errors.AsType[*exec.ExitError](err); {
	case fails == "" && err == nil:
	case fails != "" && ok && failed.ExitCode() == 1 && strings.Contains(string(out), "--- FAIL: "+test+"/"+fails):
	default:
		t.Errorf("got %v; want a failure of %q, if any; the output:\n%s", err, fails, out)
	}
}

// lockless is a netStore that lets everybody update at any time.
type lockless struct{ netStore }

func (s lockless) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	value, err := s.Load(ctx, key)
	if err != nil {
		return err
	}
	return fn(value, func(value []byte) error { return s.overwrite(ctx, key, value) })
}

func (s lockless) overwrite(ctx context.Context, key string, value []byte) error {
	for ; ; runtime.Gosched() {
		err := s.netStore.Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save(value) })
		if !errors.Is(err, tokensource.ErrLocked) {
			return err
		}
	}
}

// lazy is a netStore that says that it has saved, and does so in a moment.
type lazy struct{ netStore }

func (s lazy) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return s.netStore.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		var last []byte
		err := fn(value, func(value []byte) error { last = value; return nil })
		if last == nil {
			return err
		}
		timer := time.NewTimer(20 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		return errors.Join(err, save(last))
	})
}
