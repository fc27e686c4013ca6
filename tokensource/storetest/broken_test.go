package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Each store breaks the contract in one way, and Run must notice in the subtests
// named. The values are in a Memory; each process has an opened.
var brokenStores = map[string]struct {
	open  func(*place) tokensource.Store
	fails []string
}{
	"has no lock": {noLock, []string{"no update is lost", "another handle does not wait for the lock",
		"many at the first use of an empty store obtain one token"}},
	"waits for the lock":                 {waits, []string{"another handle does not wait for the lock"}},
	"locks in one handle only":           {handleLock, []string{"another handle does not wait for the lock", "no update is lost"}},
	"locks between handles only":         {reentrant, []string{"the same handle does not wait for the lock"}},
	"has one lock for all keys":          {oneLock, []string{"locks of different keys are independent"}},
	"saves after the lock is gone":       {lateSaves, []string{"a save after the lock is gone replaces nothing"}},
	"empties the value on an error":      {emptiesOnError, []string{"an error of fn leaves the value"}},
	"saves when fn has returned":         {savesAtTheEnd, []string{"a saved value is visible at once"}},
	"undoes saves on an error":           {undoes, []string{"what was saved before an error stays"}},
	"saves once only":                    {savesFirst(tokensource.ErrLocked), []string{"fn saves more than once"}},
	"keeps the lock after an error":      {keepsLock, []string{"an error of fn comes back and frees the lock"}},
	"keeps the lock after a panic":       {keepsLock, []string{"a panic of fn frees the lock", "runtime.Goexit in fn frees the lock"}},
	"hides the error of fn":              {hidesErrors, []string{"an error of fn comes back and frees the lock"}},
	"calls fn again after an error":      {callsAgain, []string{"an error of fn leaves the value"}},
	"saves the old value without a save": {savesAnyway, []string{"without a save the value stays"}},
	"has an empty value for none":        {emptyForNone, []string{"a missing key is nil"}},
	"has none for an empty value":        {noneForEmpty, []string{"values come back byte for byte"}},
	"keeps text only":                    {textOnly, []string{"values come back byte for byte"}},
	"shares its memory":                  {sharesMemory, []string{"values are not shared with the caller"}},
	"folds the case of keys":             {mapsKeys(strings.ToLower), []string{"keys are independent"}},
	"replaces characters of keys":        {mapsKeys(strings.NewReplacer("/", "_").Replace), []string{"keys are independent"}},
	"shortens keys":                      {mapsKeys(func(k string) string { return k[:min(len(k), 250)] }), []string{"keys are independent"}},
	"remembers what it has loaded":       {remembers, []string{"a saved value is visible at once"}},
	"goes on after the context's end":    {ignoresContext, []string{"a context that has ended calls nothing"}},
	"loses values that are overwritten":  {savesFirst(nil), []string{"fn saves more than once"}},
}

const brokenEnv = "STORETEST_BROKEN"

func TestRunFindsWhatIsBroken(t *testing.T) {
	if name := os.Getenv(brokenEnv); name != "" {
		storetest.Run(t, func(*testing.T) func() tokensource.Store {
			p := new(place)
			return func() tokensource.Store { return brokenStores[name].open(p) }
		})
		return
	}
	for _, name := range slices.Sorted(maps.Keys(brokenStores)) {
		for _, subtest := range brokenStores[name].fails {
			t.Run(name+"/"+subtest, func(t *testing.T) { wantFailure(t, name, subtest) })
		}
	}
}

// wantFailure runs a subtest of Run in a process of its own, and expects that it
// fails.
func wantFailure(t *testing.T, name, subtest string) {
	subtest = strings.ReplaceAll(subtest, " ", "_")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=1m",
		"-test.run=^TestRunFindsWhatIsBroken$/^"+regexp.QuoteMeta(subtest)+"$")
	cmd.Env = append(os.Environ(), brokenEnv+"="+name)
	out, err := cmd.CombinedOutput()
	failed, ok := errors.AsType[*exec.ExitError](err)
	if !ok || failed.ExitCode() != 1 || !strings.Contains(string(out), "--- FAIL: TestRunFindsWhatIsBroken/"+subtest) {
		t.Errorf("got %v; want exit status 1 and a failure of %s; the output:\n%s", err, subtest, out)
	}
}

// A place is what the handles of a store share.
type place struct {
	storetest.Memory
	mu     sync.Mutex
	shared map[string][]byte
}

// A store is a tokensource.Store made of functions.
type store struct {
	load   func(ctx context.Context, key string) ([]byte, error)
	update updateFunc
}

type (
	updateFunc = func(ctx context.Context, key string, fn fnFunc) error
	fnFunc     = func(value []byte, save saveFunc) error
	saveFunc   = func(value []byte) error
)

func (s store) Load(ctx context.Context, key string) ([]byte, error) { return s.load(ctx, key) }

func (s store) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return s.update(ctx, key, fn)
}

// overwrite saves whoever has the lock.
func (p *place) overwrite(ctx context.Context, key string, value []byte) error {
	for ; ; runtime.Gosched() {
		err := p.Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save(value) })
		if !errors.Is(err, tokensource.ErrLocked) {
			return err
		}
	}
}

// unlocked is Update without a lock.
func (p *place) unlocked(ctx context.Context, key string, fn fnFunc) error {
	value, err := p.Load(ctx, key)
	if err != nil {
		return err
	}
	return fn(value, func(value []byte) error { return p.overwrite(ctx, key, value) })
}

func noLock(p *place) tokensource.Store { return store{p.Load, p.unlocked} }

func waits(p *place) tokensource.Store {
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.Update(ctx, key, fn)
	}}
}

func handleLock(p *place) tokensource.Store {
	own := new(storetest.Memory)
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		return own.Update(ctx, key, func([]byte, func([]byte) error) error { return p.unlocked(ctx, key, fn) })
	}}
}

func reentrant(p *place) tokensource.Store {
	own := new(storetest.Memory)
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		err := own.Update(ctx, key, func([]byte, func([]byte) error) error { return p.Update(ctx, key, fn) })
		if errors.Is(err, tokensource.ErrLocked) {
			return p.unlocked(ctx, key, fn)
		}
		return err
	}}
}

func oneLock(p *place) tokensource.Store {
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(ctx, "lock", func([]byte, func([]byte) error) error { return p.Update(ctx, key, fn) })
	}}
}

func lateSaves(p *place) tokensource.Store {
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(ctx, key, func(value []byte, save func([]byte) error) error {
			return fn(value, func(value []byte) error {
				if save(value) != nil {
					return p.overwrite(ctx, key, value)
				}
				return nil
			})
		})
	}}
}

// withSave makes a store of what happens around fn, under the lock.
func withSave(p *place, around func(fn fnFunc, value []byte, save saveFunc) error) tokensource.Store {
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(ctx, key, func(value []byte, save func([]byte) error) error {
			return around(fn, value, save)
		})
	}}
}

func emptiesOnError(p *place) tokensource.Store {
	return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
		err := fn(value, save)
		if err != nil {
			save(nil)
		}
		return err
	})
}

func savesAtTheEnd(p *place) tokensource.Store {
	return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
		last := value
		err := fn(value, func(value []byte) error { last = value; return nil })
		return errors.Join(err, save(last))
	})
}

func undoes(p *place) tokensource.Store {
	return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
		err := fn(value, save)
		if err != nil {
			save(value)
		}
		return err
	})
}

// savesFirst saves the first value; further saves return then.
func savesFirst(then error) func(p *place) tokensource.Store {
	return func(p *place) tokensource.Store {
		return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
			saved := false
			return fn(value, func(value []byte) error {
				if saved {
					return then
				}
				saved = true
				return save(value)
			})
		})
	}
}

func keepsLock(p *place) tokensource.Store {
	held := func(key string) string { return "held " + key }
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		if value, _ := p.Load(ctx, held(key)); value != nil {
			return tokensource.ErrLocked
		}
		good := false
		defer func() {
			if !good {
				p.overwrite(ctx, held(key), []byte("held"))
			}
		}()
		err := p.Update(ctx, key, fn)
		good = err == nil || errors.Is(err, tokensource.ErrLocked)
		return err
	}}
}

func hidesErrors(p *place) tokensource.Store {
	return store{p.Load, func(ctx context.Context, key string, fn fnFunc) error {
		if err := p.Update(ctx, key, fn); err != nil {
			return errors.New(err.Error())
		}
		return nil
	}}
}

func callsAgain(p *place) tokensource.Store {
	return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
		if fn(value, save) != nil {
			return fn(value, save)
		}
		return nil
	})
}

func savesAnyway(p *place) tokensource.Store {
	return withSave(p, func(fn fnFunc, value []byte, save saveFunc) error {
		return errors.Join(fn(value, save), save(append(value, 'x')))
	})
}

// mapsValues makes a store that changes what comes out.
func mapsValues(p *place, change func([]byte) []byte) tokensource.Store {
	load := func(ctx context.Context, key string) ([]byte, error) {
		value, err := p.Load(ctx, key)
		return change(value), err
	}
	return store{load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(ctx, key, func(value []byte, save func([]byte) error) error {
			return fn(change(value), save)
		})
	}}
}

func emptyForNone(p *place) tokensource.Store {
	return mapsValues(p, func(value []byte) []byte { return append([]byte{}, value...) })
}

func noneForEmpty(p *place) tokensource.Store {
	return mapsValues(p, func(value []byte) []byte { return append([]byte(nil), value...) })
}

func textOnly(p *place) tokensource.Store {
	return mapsValues(p, func(value []byte) []byte {
		text, _, _ := bytes.Cut(value, []byte{0})
		return text
	})
}

// sharesMemory hands out what it keeps.
func sharesMemory(p *place) tokensource.Store {
	get := func(key string) []byte {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.shared[key]
	}
	load := func(_ context.Context, key string) ([]byte, error) { return get(key), nil }
	return store{load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(ctx, key, func([]byte, func([]byte) error) error {
			return fn(get(key), func(value []byte) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.shared == nil {
					p.shared = make(map[string][]byte)
				}
				p.shared[key] = value
				return nil
			})
		})
	}}
}

func mapsKeys(change func(string) string) func(p *place) tokensource.Store {
	return func(p *place) tokensource.Store {
		load := func(ctx context.Context, key string) ([]byte, error) { return p.Load(ctx, change(key)) }
		return store{load, func(ctx context.Context, key string, fn fnFunc) error {
			return p.Update(ctx, change(key), fn)
		}}
	}
}

func remembers(p *place) tokensource.Store {
	var mu sync.Mutex
	loaded := map[string][]byte{}
	return store{func(ctx context.Context, key string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if value := loaded[key]; value != nil {
			return value, nil
		}
		value, err := p.Load(ctx, key)
		loaded[key] = value
		return value, err
	}, p.Update}
}

func ignoresContext(p *place) tokensource.Store {
	load := func(ctx context.Context, key string) ([]byte, error) {
		return p.Load(context.WithoutCancel(ctx), key)
	}
	return store{load, func(ctx context.Context, key string, fn fnFunc) error {
		return p.Update(context.WithoutCancel(ctx), key, fn)
	}}
}
