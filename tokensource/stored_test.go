package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A process has a Cache over a Stored of its own.
type process struct {
	*tokensource.Cache
	stored *tokensource.Stored
}

func newProcess(store tokensource.Store, source tokensource.Source) process {
	s := &tokensource.Stored{Source: source, Store: store, Key: "key"}
	return process{&tokensource.Cache{Source: s, Patience: -1}, s}
}

// value is what a store holds under the key of newProcess, as JSON.
func value(t *testing.T, store tokensource.Store) (v struct {
	Gen            int64
	Token          struct{ Access_Token, Refresh_Token string }
	Reauthenticate bool
}) {
	t.Helper()
	data, err := store.Load(t.Context(), "key")
	if err == nil && data != nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// put makes a store hold this.
func put(t *testing.T, store tokensource.Store, key, data string) {
	t.Helper()
	err := store.Update(t.Context(), key, func(_ []byte, save func([]byte) error) error { return save([]byte(data)) })
	if err != nil {
		t.Fatal(err)
	}
}

// A brokenStore fails while its fields say so.
type brokenStore struct {
	storetest.Memory                   // used if shared is nil
	shared           tokensource.Store // of other processes, too

	load, update, save atomic.Bool
	hang               atomic.Bool // Load and Update wait until their context ends
}

func (b *brokenStore) store() tokensource.Store {
	if b.shared != nil {
		return b.shared
	}
	return &b.Memory
}

// cut cuts the process off from its store, or ends that.
func (b *brokenStore) cut(off bool) {
	b.load.Store(off)
	b.update.Store(off)
	b.save.Store(off)
}

// errAway is of a Store that is itself made of another.
var errAway error = &tokensource.StoreError{Op: "load", Key: "elsewhere", Err: errors.New("the store is away")}

func (b *brokenStore) Load(ctx context.Context, key string) ([]byte, error) {
	if b.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if b.load.Load() {
		return nil, errAway
	}
	return b.store().Load(ctx, key)
}

func (b *brokenStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if b.update.Load() {
		return errAway
	}
	return b.store().Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if b.save.Load() {
				return errAway
			}
			return save(data)
		})
	})
}

// A family is an authorization server with one login: each refresh token works once, and one that is
// sent again ends it.
type family struct {
	delay   time.Duration
	life    time.Duration
	calls   atomic.Int32
	current atomic.Int32 // the refresh token that works; less than zero: the family is dead
}

func (f *family) Token(ctx context.Context, old *Token) (*Token, error) {
	n := f.calls.Add(1)
	began := time.Now()
	if err := wait(ctx, f.delay); err != nil {
		return nil, err
	}
	sent := 0
	if old != nil {
		fmt.Sscanf(old.RefreshToken, "refresh-%d", &sent)
	}
	if int(f.current.Load()) != sent {
		f.current.Store(-1)
		return nil, fmt.Errorf("%w: refresh-%d was sent again", tokensource.ErrReauthenticate, sent)
	}
	f.current.Add(1)
	token := &Token{AccessToken: fmt.Sprintf("access-%d", n), RefreshToken: fmt.Sprintf("refresh-%d", sent+1)}
	if f.life > 0 {
		token.Expiry = began.Add(f.life)
	}
	return token, nil
}

func TestProcessesThatStartTogetherShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: time.Second}
		for _, err := range all(64, func(int) error {
			got, err := newProcess(store, server).Token(t.Context(), nil)
			wantToken(t, got, err, "access-1")
			return err
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
		}
	})
}

// A countingStore counts what is asked of it.
type countingStore struct {
	storetest.Memory
	calls atomic.Int32
}

func (c *countingStore) Load(ctx context.Context, key string) ([]byte, error) {
	c.calls.Add(1)
	return c.Memory.Load(ctx, key)
}

func (c *countingStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	c.calls.Add(1)
	return c.Memory.Update(ctx, key, fn)
}

func TestProcessesThatWaitForAnExchangeCallTheStoreFourTimesASecondAtMost(t *testing.T) {
	const processes = 1000
	for _, exchange := range []time.Duration{3 * time.Second, 9 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(countingStore), &family{delay: exchange}
			all(processes, func(int) error {
				got, err := newProcess(store, server).stored.Token(t.Context(), nil)
				wantToken(t, got, err, "access-1")
				return nil
			})
			if got, most := int(store.calls.Load()), processes*4*int(exchange/time.Second); got > most {
				t.Errorf("%d calls within %v, want %d at most", got, exchange, most)
			}
		})
	}
}

func TestOneEarlyRefreshServesAllProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: 100 * time.Millisecond, life: time.Hour}
		var processes []process
		for range 50 {
			processes = append(processes, newProcess(store, server))
		}
		for range 10 * 60 { // ten hours
			for _, p := range processes {
				if _, err := p.Token(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		// The first of fifty moments comes soon after 0.55 of the lifetime.
		if got := server.calls.Load(); got < 10 || got > 19 {
			t.Errorf("%d exchanges in ten hours, want about 18", got)
		}
		if server.current.Load() < 0 {
			t.Error("a refresh token was sent twice")
		}
	})
}

func TestARefusalThatAnotherProcessHasHealedCostsNoExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{}
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		same, err := b.Token(t.Context(), nil)
		wantToken(t, same, err, first.AccessToken)
		second, err := a.Token(t.Context(), first)
		wantToken(t, second, err, "access-2")
		got, err := b.Token(t.Context(), same)
		wantToken(t, got, err, "access-2")
		if got := server.calls.Load(); got != 2 {
			t.Errorf("%d exchanges, want 2", got)
		}
	})
}

func isStoreError(err error, op string) bool {
	e, ok := errors.AsType[*tokensource.StoreError](err)
	return ok && e.Op == op && strings.HasPrefix(e.Key, "k")
}

func TestAStoreThatIsAwayIsAnErrorUnlessTheTokenIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for op, breaks := range map[string]func(*brokenStore) *atomic.Bool{
			"load":   func(b *brokenStore) *atomic.Bool { return &b.load },
			"update": func(b *brokenStore) *atomic.Bool { return &b.update },
		} {
			store, server := new(brokenStore), &family{life: time.Minute}
			p := newProcess(store, server)
			p.Token(t.Context(), nil)
			breaks(store).Store(true)
			for range 59 {
				if _, err := p.Token(t.Context(), nil); err != nil {
					t.Fatalf("%s, with a good token: %v", op, err)
				}
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
			_, err := p.Token(t.Context(), nil)
			if !isStoreError(err, op) || !errors.Is(err, errAway) || server.calls.Load() != 1 {
				t.Errorf("%s, without: got %v after %d exchanges, want a StoreError, and one", op, err, server.calls.Load())
			}
			breaks(store).Store(false)
			time.Sleep(2 * time.Minute)
			if _, err := p.Token(t.Context(), nil); err != nil {
				t.Errorf("%s, back again: %v", op, err)
			}
		}
	})
}

func TestClientCredentialsGoOnUnsharedIfTheyMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		alone := tokensource.Func(func(context.Context, *Token) (*Token, error) {
			return &Token{AccessToken: fmt.Sprint("alone-", calls.Add(1)), Expiry: time.Now().Add(time.Minute)}, nil
		})
		store := new(brokenStore)
		store.update.Store(true)
		p := newProcess(store, alone)
		if _, err := p.Token(t.Context(), nil); !isStoreError(err, "update") {
			t.Errorf("without Unshared: got %v, want a StoreError", err)
		}
		p = newProcess(store, alone)
		p.stored.Unshared = true
		got, err := p.Token(t.Context(), nil)
		wantToken(t, got, err, "alone-1")
		store.update.Store(false)
		time.Sleep(time.Minute)
		got, err = p.Token(t.Context(), nil)
		wantToken(t, got, err, "alone-2")
		if got := value(t, store); got.Token.Access_Token != "alone-2" {
			t.Errorf("the store has %+v, want what was obtained when it was back", got)
		}
	})
}

func TestARefreshTokenIsNeverSpentWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		p := newProcess(store, server)
		p.stored.Unshared = true
		first, err := p.Token(t.Context(), nil)
		wantToken(t, first, err, "access-1")
		store.load.Store(true)
		if _, err := p.Token(t.Context(), first); !isStoreError(err, "load") {
			t.Errorf("got %v, want a StoreError", err)
		}
		grant := &tokensource.RefreshToken{RefreshToken: "initial", Endpoint: endpointReply(200, nil, `{"access_token":"a"}`)}
		p = newProcess(store, grant)
		p.stored.Unshared = true
		if got, err := p.Token(t.Context(), nil); !isStoreError(err, "load") {
			t.Errorf("the initial one: got %v, %v, want a StoreError", got, err)
		}
	})
}

func TestAStoreThatWasEmptiedOrIsBehindIsOvertaken(t *testing.T) {
	for name, old := range map[string]string{
		"behind":              `{"v":1,"gen":1,"token":{"access_token":"access-1","refresh_token":"refresh-1"}}`,
		"logged out long ago": `{"v":1,"gen":2,"reauthenticate":true}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(storetest.Memory), new(family)
			p := newProcess(store, server)
			var token *Token
			for range 5 {
				token, _ = p.Token(t.Context(), token)
			}
			put(t, store, "key", old)
			got, err := p.stored.Token(t.Context(), nil)
			wantToken(t, got, err, "access-5")
			time.Sleep(doubt)
			got, err = p.stored.Token(t.Context(), token)
			wantToken(t, got, err, "access-6")
			if v := value(t, store); v.Gen != 6 || v.Token.Refresh_Token != "refresh-6" {
				t.Errorf("%s: the store has %+v, want generation 6", name, v)
			}
		})
	}
}

func TestAValueThatCannotBeUsedIsAnErrorAndStays(t *testing.T) {
	for data, want := range map[string]string{
		`{"v":2,"gen":1,"token":{"access_token":"hush"}}`:          "version 2, newer than 1",
		`{"v":1,"gen":1,"token":{"access_token":"hu`:               "not a stored token, or was cut short",
		`{"v":1,"gen":0,"token":{"access_token":"hush"}}`:          "lacks a generation",
		`{"v":1,"gen":18446744073709551615,"reauthenticate":true}`: "lacks a generation",
		`{"v":1,"gen":9007199254740992,"reauthenticate":true}`:     "lacks a generation",
		`{"v":1,"gen":1}`: "lacks a generation, or a token",
		`{"v":1,"gen":1,"reauthenticate":true,"token":{"access_token":"hush"}}`: "lacks a generation, or a token",
		`{"v":1,"gen":1,"token":{}}`:                       "no usable token",
		`{"v":1,"gen":1,"token":"hush"}`:                   "no usable token",
		`{"access_token":"hush"}`:                          "not a stored token",
		`{"v":1,"gen":-1,"token":{"access_token":"hush"}}`: "not a stored token",
		`null`: "not a stored token",
		`hush`: "not a stored token",
		``:     "not a stored token",
	} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(storetest.Memory), new(family)
			put(t, store, "key", data)
			p := newProcess(store, server)
			p.stored.Unshared = true
			for _, err := range []error{second(p.stored.Token(t.Context(), nil)), p.stored.Set(t.Context(), &Token{AccessToken: "a"})} {
				if !isStoreError(err, "decode") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
					t.Errorf("%s: got %v, want a StoreError of decode that has: %s", data, err, want)
				}
			}
			if got, _ := store.Load(t.Context(), "key"); string(got) != data || server.calls.Load() != 0 {
				t.Errorf("%s became %s, after %d exchanges", data, got, server.calls.Load())
			}
		})
	}
}
