package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	Gen            int
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
	storetest.Memory
	load, update, save atomic.Bool
	hang               atomic.Bool // Load and Update wait until their context ends
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
	return b.Memory.Load(ctx, key)
}

func (b *brokenStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if b.update.Load() {
		return errAway
	}
	return b.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
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

func TestAWaiterForTheLockLeavesAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		slow := newProcess(store, &family{delay: 9 * time.Second})
		go slow.Token(t.Context(), nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		_, err := newProcess(store, &family{}).stored.Token(ctx, nil)
		if waited := time.Since(began); err != context.DeadlineExceeded || waited != 3*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 3s", err, waited)
		}
		time.Sleep(10 * time.Second)
	})
}

func TestAnExchangeOutlivesItsCallerAndIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: 5 * time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		go newProcess(store, server).stored.Token(ctx, nil)
		synctest.Wait()
		cancel()
		time.Sleep(6 * time.Second)
		if got := value(t, store); got.Token.Refresh_Token != "refresh-1" {
			t.Errorf("the store has %+v, want refresh-1", got)
		}
	})
}

func TestAnExchangeIsBoundedAndItsSaveHasTimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{delay: time.Hour}
		p := newProcess(store, server)
		began := time.Now()
		_, err := p.stored.Token(t.Context(), nil)
		if waited := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || waited != 10*time.Second {
			t.Errorf("got %v after %v, want DeadlineExceeded after 10s", err, waited)
		}
		server.delay = 9 * time.Second
		store.save.Store(true)
		time.AfterFunc(9*time.Second+14*time.Second, func() { store.save.Store(false) })
		got, err := p.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
		if got := value(t, store); got.Token.Access_Token != "access-2" {
			t.Errorf("the store has %+v, want access-2", got)
		}
	})
}

func TestATokenThatCouldNotBeSavedIsUsedAndSavedAsSoonAsTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Hour}
		store.save.Store(true)
		p := newProcess(store, server)
		got, err := p.Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
		for range 60 { // the store stays away
			time.Sleep(time.Second)
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "access-1")
		}
		store.save.Store(false)
		for range 120 {
			time.Sleep(time.Second)
			p.Token(t.Context(), nil)
		}
		if got := value(t, store); got.Token.Access_Token == "" || server.current.Load() < 0 {
			t.Errorf("the store has %+v after two minutes, and %d exchanges", got, server.calls.Load())
		}
		other, err := newProcess(store, server).Token(t.Context(), nil)
		current, _ := p.Token(t.Context(), nil)
		wantToken(t, other, err, current.AccessToken)
	})
}

func TestNothingIsExchangedWhileAnEarlierTokenIsUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{}
		p := newProcess(store, server)
		store.save.Store(true)
		first, err := p.stored.Token(t.Context(), nil)
		wantToken(t, first, err, "access-1")
		if _, err := p.stored.Token(t.Context(), first); !isStoreError(err, "save") {
			t.Errorf("got %v, want a StoreError of save", err)
		}
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
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

func second[T any](_ T, err error) error { return err }

func TestADeadRefreshTokenIsToldToAllAndALoginHealsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		server.current.Store(-1)
		for _, p := range []process{a, b} {
			if _, err := p.Token(t.Context(), first); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("got %v, want ErrReauthenticate", err)
			}
		}
		if got := server.calls.Load(); got != 2 {
			t.Errorf("%d exchanges, want 2: one told both", got)
		}
		if err := a.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "refresh-0"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second) // at most
		for _, p := range []process{a, b, newProcess(store, server)} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "login")
		}
		if got := server.calls.Load(); got != 2 {
			t.Errorf("%d exchanges, want 2", got)
		}
	})
}

func TestALoginReachesTheOthersWithin30SecondsHoweverLongTheyHaveWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		if err := a.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
			if _, err := b.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
		}
		if err := a.Set(t.Context(), &Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		got, err := b.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
	})
}

func TestALogoutIsToldToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		a, b := newProcess(store, server), newProcess(store, server)
		a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		if err := a.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v := value(t, store); !v.Reauthenticate || v.Token.Refresh_Token != "" {
			t.Errorf("the store has %+v, want no token", v)
		}
		time.Sleep(time.Minute)
		if _, err := b.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) || server.calls.Load() != 1 {
			t.Errorf("got %v after %d exchanges, want ErrReauthenticate after 1", err, server.calls.Load())
		}
	})
}

func TestALoginWinsOverAnExchangeInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{delay: 5 * time.Second}
		a, b := newProcess(store, server), newProcess(store, server)
		go a.Token(t.Context(), nil)
		synctest.Wait()
		for _, p := range []process{a, b} {
			login := "login-of-" + map[bool]string{true: "a", false: "b"}[p == a]
			if err := p.Set(t.Context(), &Token{AccessToken: login}); err != nil {
				t.Fatal(err)
			}
			if v := value(t, store); v.Token.Access_Token != login {
				t.Errorf("the store has %+v, want %s", v, login)
			}
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, login)
		}
	})
}

func TestALoginThatCouldNotBeSavedIsSavedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		store.update.Store(true)
		if err := a.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "refresh-1"}); !isStoreError(err, "update") {
			t.Errorf("got %v, want a StoreError", err)
		}
		got, err := a.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
		store.update.Store(false)
		if _, err := b.Token(t.Context(), first); err != nil { // gets ahead
			t.Fatal(err)
		}
		a.stored.Token(t.Context(), nil)
		if v := value(t, store); v.Token.Access_Token != "login" {
			t.Errorf("the store has %+v, want the login", v)
		}
	})
}

func TestALoginAfterTheStoreWasEmptiedReachesWhoKnewTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), &family{life: time.Minute}
		older, newer := newProcess(store, server), newProcess(store, server)
		token, _ := older.Token(t.Context(), nil)
		for range 5 {
			newer.Token(t.Context(), nil)
			token, _ = newer.Token(t.Context(), token)
		}
		put(t, store, "key", `{"v":1,"gen":1,"token":{"access_token":"access-1","refresh_token":"refresh-1"}}`)
		time.Sleep(time.Minute)
		if _, err := older.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate: it knew only a spent refresh token", err)
		}
		if err := older.Set(t.Context(), &Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		for _, p := range []process{newer, older} {
			got, err := p.Token(t.Context(), nil)
			wantToken(t, got, err, "login")
		}
	})
}

func TestASourceThatPanicsFreesTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		p := newProcess(store, tokensource.Func(func(context.Context, *Token) (*Token, error) { panic("boom") }))
		if _, err := p.Token(t.Context(), nil); err == nil {
			t.Error("got no error")
		}
		got, err := newProcess(store, new(family)).Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
	})
}

func TestASetThatCannotGetTheLockEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.hang.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := newProcess(store, new(family)).stored.Token(ctx, nil); err != context.DeadlineExceeded {
			t.Errorf("Load hangs: got %v, want DeadlineExceeded", err)
		}
		go newProcess(&store.Memory, &family{delay: 9 * time.Second}).stored.Token(t.Context(), nil)
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := newProcess(store, new(family)).stored.Set(ctx, &Token{AccessToken: "a"}); err != context.DeadlineExceeded {
			t.Errorf("Set: got %v, want DeadlineExceeded", err)
		}
		time.Sleep(10 * time.Second)
	})
}

// A listing is a store that remembers the keys that it was asked for.
type listing struct {
	storetest.Memory
	keys map[string]bool
}

func (l *listing) Load(ctx context.Context, key string) ([]byte, error) {
	l.keys[key] = true
	return l.Memory.Load(ctx, key)
}

func TestTheKeyTellsTheLoginApart(t *testing.T) {
	endpoint := endpointReply(200, nil, `{"access_token":"a"}`)
	other := endpoint
	other.ClientID = "other"
	l := &listing{keys: map[string]bool{}}
	sources := []tokensource.Source{
		&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: "first"},
		&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: "second"},
		&tokensource.RefreshToken{Endpoint: other, RefreshToken: "second"},
		&tokensource.ClientCredentials{Endpoint: endpoint},
		&tokensource.ClientCredentials{Endpoint: endpoint, Scopes: []string{"s"}},
		&tokensource.JWTBearer{Endpoint: endpoint, Assertion: tokensource.Static(&Token{AccessToken: "x"})},
		&tokensource.JWTBearer{Endpoint: endpoint, Assertion: tokensource.Static(&Token{AccessToken: "x"}), Scopes: []string{"s"}},
		&tokensource.TokenExchange{Endpoint: endpoint, Subject: tokensource.Static(&Token{AccessToken: "x"})},
		&tokensource.TokenExchange{Endpoint: endpoint, Subject: tokensource.Static(&Token{AccessToken: "x"}), RequestedType: jwtURI},
	}
	for range 2 {
		for _, source := range sources {
			if _, err := (&tokensource.Stored{Source: source, Store: l, Key: "key"}).Token(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(l.keys) != len(sources) {
		t.Errorf("%d keys for %d credentials: %v", len(l.keys), len(sources), slices.Collect(maps.Keys(l.keys)))
	}
	for key := range l.keys {
		if !strings.HasPrefix(key, "key.") || strings.Contains(key, "first") {
			t.Errorf("got the key %s", key)
		}
	}
}

func TestAStoredThatLacksAFieldNamesIt(t *testing.T) {
	source, store := new(family), new(storetest.Memory)
	for want, s := range map[string]*tokensource.Stored{
		"Stored.Source": {Store: store, Key: "k"},
		"Stored.Store":  {Source: source, Key: "k"},
		"Stored.Key":    {Source: source, Store: store},
		"1 to 200":      {Source: source, Store: store, Key: strings.Repeat("k", 201)},
		"ASCII":         {Source: source, Store: store, Key: "a b"},
	} {
		for _, err := range []error{second(s.Token(t.Context(), nil)), s.Set(t.Context(), &Token{AccessToken: "a"}), s.Forget(t.Context())} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error that names %s", err, want)
			}
		}
	}
	s := &tokensource.Stored{Source: source, Store: store, Key: "k"}
	for _, token := range []*Token{nil, {}} {
		if err := s.Set(t.Context(), token); err == nil {
			t.Error("Set without a token: got no error")
		}
	}
}

func TestAStoredTokenMakesRoomInKeyedOnceItIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		k := byTenant(func(name string) tokensource.Source {
			return &tokensource.Stored{Source: new(family), Store: store, Key: name}
		})
		k.MaxKeys = 1
		ask := func(name string) error { _, err := k.Token(tenant(t.Context(), name), nil); return err }
		store.save.Store(true)
		if err := ask("a"); err != nil {
			t.Fatal(err)
		}
		if err := ask("b"); !errors.Is(err, tokensource.ErrKeysFull) {
			t.Errorf("with an unsaved token: got %v, want ErrKeysFull", err)
		}
		store.save.Store(false)
		time.Sleep(2 * time.Second)
		ask("a") // saves
		time.Sleep(time.Second)
		if err := errors.Join(ask("b"), ask("a")); err != nil {
			t.Errorf("with a saved one: %v", err)
		}
	})
}

// A wrapper passes on what a Stored tells, as a type of one's own does.
type wrapper struct{ stored *tokensource.Stored }

func (w wrapper) Token(ctx context.Context, old *Token) (*Token, error) {
	return w.stored.Token(ctx, old)
}
func (w wrapper) Set(ctx context.Context, token *Token) error { return w.stored.Set(ctx, token) }
func (w wrapper) Forget(ctx context.Context) error            { return w.stored.Forget(ctx) }
func (w wrapper) Pending() bool                               { return w.stored.Pending() }

func TestAWrapperRoundAStoredMayPassOnWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		k := byTenant(func(name string) tokensource.Source {
			return wrapper{&tokensource.Stored{Source: new(family), Store: store, Key: "key-" + name}}
		})
		k.MaxKeys = 1
		a, b := tenant(t.Context(), "a"), tenant(t.Context(), "b")
		first, _ := k.Token(a, nil) // has a refresh token, which is saved
		if err := second(k.Token(b, nil)); err != nil {
			t.Errorf("with a saved token: %v", err)
		}
		store.update.Store(true)
		k.Forget(b)
		if err := second(k.Token(a, nil)); err != tokensource.ErrKeysFull {
			t.Errorf("with an unsaved logout: got %v, want ErrKeysFull", err)
		}
		store.update.Store(false)
		if err := second(k.Token(b, first)); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		time.Sleep(time.Second)
		if err := second(k.Token(a, nil)); err != nil {
			t.Errorf("with a saved logout: %v", err)
		}
	})
}
