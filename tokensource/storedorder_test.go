package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Events in an order that nobody would have thought of.

// A slowStore waits before it calls fn, before it saves, or calls saved before
// the caller knows of a save.
type slowStore struct {
	storetest.Memory
	lock, save time.Duration
	saved      func()
}

func (s *slowStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return s.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		time.Sleep(s.lock)
		return fn(value, func(data []byte) error {
			time.Sleep(s.save)
			err := save(data)
			if s.saved != nil {
				s.saved()
			}
			return err
		})
	})
}

func TestALoginWhileAnotherIsSavedIsNotSpentBeforeItIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(slowStore), new(family)
		s := newProcess(store, server).stored
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		s.Set(gone, &Token{RefreshToken: "refresh-0"}) // is left unsaved
		store.save = time.Second
		go s.Token(t.Context(), nil) // saves it first
		time.Sleep(500 * time.Millisecond)
		if err := s.Set(t.Context(), &Token{RefreshToken: "refresh-0"}); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		var token *Token
		for range 3 {
			token, _ = s.Token(t.Context(), token)
		}
		if server.current.Load() < 0 {
			t.Errorf("a refresh token was sent twice; the store has %+v", value(t, store))
		}
	})
}

// While a save of Set's is on its way back, another call loads what was saved.
func TestALoginIsSavedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(slowStore), new(family)
		s := newProcess(store, server).stored
		saves := 0
		store.saved = func() {
			if saves++; saves == 1 {
				got, err := s.Token(t.Context(), nil)
				wantToken(t, got, err, "login")
			}
		}
		login := &Token{AccessToken: "login", RefreshToken: "refresh-0"}
		if err := s.Set(t.Context(), login); err != nil || saves != 1 {
			t.Fatalf("got %v after %d saves, want one", err, saves)
		}
		other := newProcess(store, server).stored
		got, err := other.Token(t.Context(), login)
		wantToken(t, got, err, "access-1")
		got, err = s.Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
	})
}

func TestALoginAtTheSameTimeAsARefreshIsNeverSentTwice(t *testing.T) {
	for i := range 500 {
		store := new(storetest.Memory)
		var seen sync.Map
		var calls atomic.Int32
		source := tokensource.Func(func(_ context.Context, old *Token) (*Token, error) {
			n := calls.Add(1)
			if old != nil {
				if _, twice := seen.LoadOrStore(old.RefreshToken, true); twice {
					t.Errorf("round %d: %s was sent twice", i, old.RefreshToken)
				}
			}
			return &Token{AccessToken: fmt.Sprint("a", n), RefreshToken: fmt.Sprint("r", n), Expiry: time.Now()}, nil
		})
		s := &tokensource.Stored{Source: source, Store: store, Key: "key"}
		s.Token(t.Context(), nil)
		all(2, func(who int) error {
			if who == 0 {
				_, err := s.Token(t.Context(), nil)
				return err
			}
			return s.Set(t.Context(), &Token{RefreshToken: "login"})
		})
		s.Token(t.Context(), nil)
		s.Token(t.Context(), nil)
	}
}

func TestALogoutHereIsHealedByALoginElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		a.Token(t.Context(), nil)
		a.Forget(t.Context())
		for range 10 {
			if _, err := a.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Fatalf("got %v, want ErrReauthenticate", err)
			}
			time.Sleep(time.Minute)
		}
		b.Set(t.Context(), &Token{AccessToken: "login"})
		time.Sleep(100 * time.Second)
		got, err := a.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
		}
	})
}

func TestALogoutOrLoginAfterTheStoreWasEmptiedHolds(t *testing.T) {
	for _, login := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, server := new(storetest.Memory), new(family)
			old := newProcess(store, server)
			var token *Token
			for range 5 {
				token, _ = old.Token(t.Context(), token)
			}
			empty := new(storetest.Memory)
			old.stored.Store = empty
			fresh := newProcess(empty, server)
			if login {
				fresh.Set(t.Context(), &Token{AccessToken: "login"})
			} else {
				fresh.Forget(t.Context())
			}
			got, err := old.Token(t.Context(), token)
			switch {
			case login:
				wantToken(t, got, err, "login")
			case !errors.Is(err, tokensource.ErrReauthenticate):
				t.Errorf("got %v, %v, want ErrReauthenticate", got, err)
			}
		})
	}
}

func TestALoginWinsOverALaterClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a := newProcess(store, server)
		put(t, store, "key", fmt.Sprintf(`{"v":1,"gen":%d,"token":{"access_token":"clock-ahead"}}`, time.Now().Add(time.Hour).UnixMilli()))
		b := newProcess(store, server)
		got, err := b.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "clock-ahead")
		if err := a.Set(t.Context(), &Token{AccessToken: "login"}); err != nil {
			t.Fatal(err)
		}
		for _, p := range []process{a, b, newProcess(store, server)} {
			got, err := p.stored.Token(t.Context(), nil)
			wantToken(t, got, err, "login")
		}
	})
}

func TestTheLaterOfTwoLoginsAtOneMomentWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		store.save.Store(true)
		if err := a.Set(t.Context(), &Token{AccessToken: "unsaved"}); !isStoreError(err, "save") {
			t.Errorf("got %v, want a StoreError", err)
		}
		store.save.Store(false)
		if err := b.Set(t.Context(), &Token{AccessToken: "first"}); err != nil {
			t.Fatal(err)
		}
		store.save.Store(true)
		if err := a.stored.Set(t.Context(), &Token{AccessToken: "second"}); !isStoreError(err, "save") {
			t.Errorf("got %v, want a StoreError", err)
		}
		store.save.Store(false)
		for _, login := range []string{"third", "fourth"} {
			if err := a.Set(t.Context(), &Token{AccessToken: login}); err != nil {
				t.Fatal(err)
			}
			got, err := newProcess(store, server).Token(t.Context(), nil)
			wantToken(t, got, err, login)
		}
	})
}

func TestTheGenerationOfALoginIsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a := newProcess(store, server)
		a.Token(t.Context(), nil)
		for range 2 {
			time.Sleep(time.Second)
			a.Set(t.Context(), &Token{AccessToken: "login"})
			if got, want := value(t, store).Gen, time.Now().UnixMilli(); got != want {
				t.Errorf("got generation %d, want %d", got, want)
			}
		}
	})
}

func TestAnExchangeLeavesTimeForTheSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := &slowStore{lock: 4 * time.Second, save: 14 * time.Second}, &family{delay: 7 * time.Second}
		p := newProcess(store, server)
		if _, err := p.stored.Token(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want DeadlineExceeded: 6s were left of the exchange's 10", err)
		}
		server.delay = 5 * time.Second
		got, err := p.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
		if v := value(t, store); v.Token.Access_Token != "access-2" {
			t.Errorf("the store has %+v, want access-2", v)
		}
	})
}

func TestAStoreThatHangsIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.hang.Store(true)
		p := newProcess(store, tokensource.Static(&Token{AccessToken: "alone"}))
		if _, err := p.stored.Token(t.Context(), nil); !isStoreError(err, "load") {
			t.Errorf("got %v, want a StoreError", err)
		}
		p.stored.Unshared = true
		began := time.Now()
		got, err := p.Token(t.Context(), nil)
		wantToken(t, got, err, "alone")
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("waited %v, want 5s", waited)
		}
	})
}

func TestARefreshTokenThatCameWithoutTheStoreIsNotSpentWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Minute}
		store.load.Store(true)
		p := newProcess(store, server)
		p.stored.Unshared = true
		got, err := p.Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
		time.Sleep(time.Minute)
		if _, err := p.Token(t.Context(), nil); !isStoreError(err, "load") {
			t.Errorf("got %v, want a StoreError", err)
		}
		store.load.Store(false)
		time.Sleep(time.Minute)
		got, err = p.Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
	})
}

func TestALoginThatNoHeaderMayCarryIsNotSaved(t *testing.T) {
	store, server := new(storetest.Memory), new(family)
	p := newProcess(store, server)
	for _, err := range []error{
		p.stored.Set(t.Context(), &Token{AccessToken: "a\n", RefreshToken: "refresh-0"}),
		p.stored.Replace(t.Context(), &Token{AccessToken: "a"}, &Token{AccessToken: "a\n"}),
	} {
		if err == nil {
			t.Error("got no error")
		}
	}
	got, err := p.Token(t.Context(), nil)
	wantToken(t, got, err, "access-1")
	put(t, store, "key", `{"v":1,"gen":99,"token":{"access_token":"a b"}}`)
	if _, err := newProcess(store, server).Token(t.Context(), nil); !isStoreError(err, "decode") {
		t.Errorf("got %v, want a StoreError", err)
	}
}

// countedRequests counts what goes through it.
type countedRequests struct {
	base http.RoundTripper
	n    *atomic.Int32
}

func (c countedRequests) RoundTrip(req *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.base.RoundTrip(req)
}

func TestADeadInitialRefreshTokenIsToldToAll(t *testing.T) {
	var sent atomic.Int32
	endpoint := endpointReply(400, nil, "")
	answer := endpointReply(400, nil, `{"error":"invalid_grant"}`).Client.Transport
	endpoint.Client.Transport = countedRequests{answer, &sent}
	store := new(storetest.Memory)
	for range 5 {
		p := newProcess(store, &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: "dead"})
		if _, err := p.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
	}
	if got := sent.Load(); got != 1 {
		t.Errorf("%d token requests, want 1", got)
	}
}

func TestTheStoreErrorOfASourceIsNotOnesOwn(t *testing.T) {
	calls := 0
	source := tokensource.Func(func(context.Context, *Token) (*Token, error) {
		calls++
		return nil, &tokensource.StoreError{Op: "load", Key: "key", Err: errAway}
	})
	p := newProcess(new(storetest.Memory), source)
	p.stored.Unshared = true
	if _, err := p.stored.Token(t.Context(), nil); !isStoreError(err, "load") || calls != 1 {
		t.Errorf("got %v after %d calls, want the source's StoreError after 1", err, calls)
	}
}

func TestALoginWithoutRefreshTokenLivesAsLongAsItsAccessToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(storetest.Memory)
		src := &tokensource.RefreshToken{}
		a := newProcess(store, src)
		a.Set(t.Context(), &Token{AccessToken: "login", Expiry: time.Now().Add(time.Hour)})
		time.Sleep(55 * time.Minute)
		got, err := a.Token(t.Context(), nil) // early
		wantToken(t, got, err, "login")
		time.Sleep(time.Second)
		got, err = newProcess(store, src).Token(t.Context(), nil)
		wantToken(t, got, err, "login")
	})
}

func TestASourceThatIsLockedIsNotAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		p := newProcess(new(storetest.Memory), tokensource.Func(func(context.Context, *Token) (*Token, error) {
			n.Add(1)
			return nil, fmt.Errorf("my own store: %w", tokensource.ErrLocked)
		}))
		if _, err := p.Token(t.Context(), nil); n.Load() != 1 || !errors.Is(err, tokensource.ErrLocked) {
			t.Errorf("got %v after %d calls, want the source's error after 1", err, n.Load())
		}
	})
}
