package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestAnEmptiedStoreIsFilledAgainWithTheNextCallAndWithoutAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(family)
		p := newProcess(new(storetest.Memory), server)
		p.Token(t.Context(), nil)
		empty := new(storetest.Memory)
		p.stored.Store = empty
		for _, p := range []*tokensource.Stored{p.stored, newProcess(empty, server).stored} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "access-1")
		}
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
		}
	})
}

// anEarlier is a store as a release uses it that does not know the name of a login.
type anEarlier struct{ tokensource.Store }

func (a anEarlier) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return a.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(data, &fields); err != nil {
				return err
			}
			delete(fields, "login")
			data, err := json.Marshal(fields)
			return errors.Join(err, save(data))
		})
	})
}

func TestReleasesThatNameNoLoginsMayShareTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		earlier, later := newProcess(anEarlier{store}, server), newProcess(store, server)
		for round := range 3 {
			for i, p := range []process{earlier, later, later, earlier} {
				server.current.Store(0)
				login := fmt.Sprintf("login-%d-%d", round, i)
				if err := p.Set(t.Context(), &Token{AccessToken: login, RefreshToken: "refresh-0"}); err != nil {
					t.Fatal(err)
				}
				old := &Token{AccessToken: login}
				for _, p := range []process{later, earlier, earlier, later} {
					next, err := p.stored.Token(t.Context(), old)
					if err != nil {
						t.Fatal(err)
					}
					old = next
				}
				if got := server.current.Load(); got != 4 {
					t.Errorf("%s: %d of 4 exchanges went well", login, got)
				}
			}
			later.Forget(t.Context())
			if _, err := earlier.stored.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("after the logout: got %v, want ErrReauthenticate", err)
			}
		}
	})
}

// A login may be saved though the answer is lost, and an earlier release goes on from it. What
// the process does meanwhile doesn't make it forget that.
func TestALoginIsNotSavedOverWhatAnEarlierReleaseMadeOfIt(t *testing.T) {
	login := &Token{AccessToken: "login", RefreshToken: "refresh-0"}
	nothing := func(*testing.T, *tokensource.Stored) {}
	for name, meanwhile := range map[string]struct {
		saving, saved func(*testing.T, *tokensource.Stored)
	}{
		"nothing": {nothing, nothing},
		"Token": {func(t *testing.T, s *tokensource.Stored) {
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			s.Token(short, nil)
		}, nothing},
		"Replace": {nothing, func(t *testing.T, s *tokensource.Stored) {
			s.Replace(t.Context(), login, &Token{AccessToken: "replaced"})
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(lossyStore), new(family)
			p := newProcess(store, server)
			store.saving = func() { meanwhile.saving(t, p.stored) }
			store.lose = func() {
				earlier := newProcess(anEarlier{store}, server).stored
				got, err := earlier.Token(t.Context(), login)
				wantToken(t, got, err, "access-1")
				got, err = earlier.Token(t.Context(), got)
				wantToken(t, got, err, "access-2")
				meanwhile.saved(t, p.stored)
			}
			if err := p.Set(t.Context(), login); err != nil {
				t.Fatal(name, err)
			}
			got, err := p.stored.Token(t.Context(), login)
			wantToken(t, got, err, "access-2")
		})
	}
}

// A lossyStore saves and loses the answer and the lock.
type lossyStore struct {
	storetest.Memory
	saving func() // has not got the lock
	lose   func()
	locked bool
}

func (l *lossyStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	lose := l.lose
	switch {
	case l.locked:
		return tokensource.ErrLocked
	case lose == nil:
		return l.Memory.Update(ctx, key, fn)
	}
	l.lose = nil
	value, err := l.Load(ctx, key)
	if err != nil {
		return err
	}
	saved := false
	return fn(value, func(data []byte) error {
		if saved {
			return tokensource.ErrLocked
		}
		saved = true
		l.locked = true
		l.saving()
		l.locked = false
		l.Memory.Update(ctx, key, func(_ []byte, save func([]byte) error) error { return save(data) })
		lose()
		return errAway
	})
}
