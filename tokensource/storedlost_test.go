package tokensource_test

import (
	"context"
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

// doubt is how long no refresh token is spent after a store has lost what it had.
const doubt = 45 * time.Second

// newerAndOlder returns two processes over a store: the first has the newest token, the
// other the one before, which is good still.
func newerAndOlder(t *testing.T, server *family) (store *storetest.Memory, newer, older process) {
	t.Helper()
	server.life = time.Hour
	store = new(storetest.Memory)
	newer, older = newProcess(store, server), newProcess(store, server)
	first, err := older.Token(t.Context(), nil)
	wantToken(t, first, err, "access-1")
	got, err := newer.Token(t.Context(), first)
	wantToken(t, got, err, "access-2")
	return store, newer, older
}

// emptied takes away what a store has, in all processes.
func emptied(processes ...process) (store *storetest.Memory) {
	store = new(storetest.Memory)
	for _, p := range processes {
		p.stored.Store = store
	}
	return store
}

// send sends requests from a process, for so long.
func send(t *testing.T, p process, long time.Duration) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := p.Token(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAProcessThatLagsBehindSpendsNoRefreshTokenWhereTheStoreWasEmptied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, newer, older := newerAndOlder(t, new(family))
		old, _ := older.Token(t.Context(), nil)
		emptied(newer, older)
		if _, err := older.stored.Token(t.Context(), old); !isStoreError(err, "update") || !strings.Contains(err.Error(), "has lost records") {
			t.Errorf("got error %v, want a StoreError", err)
		}
		send(t, newer, 31*time.Second) // so it looks
		got, err := older.stored.Token(t.Context(), old)
		wantToken(t, got, err, "access-2")
		time.Sleep(doubt)
		got, err = older.stored.Token(t.Context(), got)
		wantToken(t, got, err, "access-3")
	})
}

func TestATokenWhoseLockWasLostIsSavedThoughNoRequestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(evictedStore)
		store.first = func() { // another process has the lock now
			go store.Update(t.Context(), "key", func([]byte, func([]byte) error) error { time.Sleep(3 * time.Second); return nil })
			synctest.Wait()
		}
		began := time.Now()
		got, err := newProcess(store, new(family)).Token(t.Context(), nil)
		if wantToken(t, got, err, "access-1"); time.Since(began) != 0 {
			t.Errorf("the token came after %v, want at once", time.Since(began))
		}
		time.Sleep(5 * time.Second)
		if v := value(t, store); v.Token.Access_Token != "access-1" {
			t.Errorf("the store has %+v, want access-1", v)
		}
	})
}

func TestAfterTheDoubtWhoeverIsLeftGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(family)
		_, newer, _ := newerAndOlder(t, server)
		old, _ := newer.Token(t.Context(), nil)
		emptied(newer)
		noticed := time.Now()
		for {
			got, err := newer.Token(t.Context(), old)
			if err == nil {
				wantToken(t, got, err, "access-3")
				break
			}
			time.Sleep(time.Second)
		}
		if after := time.Since(noticed); after < doubt || after > doubt*5/4+time.Second {
			t.Errorf("a new token after %v, want %v and a quarter at most", after, doubt)
		}
	})
}

func TestAnEmptiedStoreDelaysNoGoodTokenAndNoClientCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, newer, older := newerAndOlder(t, new(family))
		emptied(newer, older)
		got, err := newer.stored.Token(t.Context(), nil)
		wantToken(t, got, err, "access-2")
		p := newProcess(new(storetest.Memory), tokens("service"))
		first, err := p.Token(t.Context(), nil)
		wantToken(t, first, err, "service-1")
		emptied(p)
		got, err = p.Token(t.Context(), first)
		wantToken(t, got, err, "service-2")
	})
}

// tokens is a Source whose tokens have no refresh token.
func tokens(name string) tokensource.Func {
	var n atomic.Int32
	return func(context.Context, *Token) (*Token, error) {
		return &Token{AccessToken: fmt.Sprintf("%s-%d", name, n.Add(1))}, nil
	}
}

// The doubt cannot help where nobody can see that there is something newer.
func TestALoginIsNeededWhereNobodyWhoKnowsTheNewestTokenTellsTheOthers(t *testing.T) {
	for name, older := range map[string]func(t *testing.T, store *storetest.Memory, newer, older process, old *Token) process{
		"a process has just started, and the store is empty": func(t *testing.T, _ *storetest.Memory, newer, older process, old *Token) process {
			store := emptied(newer, older)
			fresh := newProcess(store, older.stored.Source)
			return fresh
		},
		"the store was put back to what the process knows": func(t *testing.T, store *storetest.Memory, newer, older process, old *Token) process {
			put(t, store, "key", `{"v":1,"gen":1,"token":{"access_token":"access-1","refresh_token":"refresh-1"}}`)
			return older
		},
		"who knows the newest token sends no request for 45 s": func(t *testing.T, _ *storetest.Memory, newer, older process, old *Token) process {
			emptied(newer, older)
			older.stored.Token(t.Context(), old)
			time.Sleep(doubt)
			return older
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			store, newer, lagging := newerAndOlder(t, new(family))
			old, _ := lagging.Token(t.Context(), nil)
			p := older(t, store, newer, lagging, old)
			if got, err := p.stored.Token(t.Context(), old); !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("%s: got %v, %v, want ErrReauthenticate", name, got, err)
			}
		})
	}
}

func TestAMomentFarAheadIsNoDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		for i, ahead := range []time.Duration{time.Hour, -time.Hour, doubt, -doubt} {
			put(t, store, "key", fmt.Sprintf(`{"v":1,"gen":9,"lost":%d,"token":{"access_token":"access","refresh_token":"refresh-%d"}}`,
				time.Now().Add(ahead).UnixMilli(), i))
			got, err := newProcess(store, server).stored.Token(t.Context(), &Token{AccessToken: "access"})
			wantToken(t, got, err, fmt.Sprintf("access-%d", i+1))
		}
	})
}

func TestALookAsksTheSourceForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		p := newProcess(store, server)
		if err := p.stored.Look(t.Context()); err != nil || server.calls.Load() > 0 {
			t.Errorf("nothing is known: got error %v, and %d exchanges", err, server.calls.Load())
		}
		token, _ := p.Token(t.Context(), nil)
		store.load.Store(true)
		if err := p.stored.Look(t.Context()); !isStoreError(err, "load") {
			t.Errorf("got %v, want a StoreError", err)
		}
		store.load.Store(false)
		put(t, store, "key", `{"v":1,"gen":9,"token":{"access_token":"another's"}}`)
		if err := p.stored.Look(t.Context()); err != nil {
			t.Error(err)
		}
		store.load.Store(true) // what it has learned, it has even without the store
		got, err := p.stored.Token(t.Context(), token)
		wantToken(t, got, err, "another's")
		if got := server.calls.Load(); got != 1 {
			t.Errorf("%d exchanges, want 1", got)
		}
		p.stored.Key = ""
		if err := p.stored.Look(t.Context()); err == nil || !strings.Contains(err.Error(), "Stored.Key") {
			t.Errorf("without a key: got %v, want an error that names the field", err)
		}
	})
}

func TestALookTakesNoLockIfNothingIsToBeSaved(t *testing.T) {
	store := new(watchedStore)
	s := newProcess(store, new(family)).stored
	s.Token(t.Context(), nil)
	if err := s.Look(t.Context()); err != nil || len(store.results) != 1 {
		t.Errorf("got error %v, and the lock was taken %d times, want once, for the token", err, len(store.results))
	}
}

// A process that lags behind takes no part in the doubt by what it does itself.
func TestInTheDoubtNoRefreshTokenIsSpentWhateverElseIsSaved(t *testing.T) {
	for name, does := range map[string]func(t *testing.T, older process, old *Token){
		"Replace before it has noticed": func(t *testing.T, older process, old *Token) {
			older.Replace(t.Context(), old, &Token{AccessToken: "replaced"})
		},
		"Replace in the doubt": func(t *testing.T, older process, old *Token) {
			older.stored.Token(t.Context(), nil)
			older.Replace(t.Context(), old, &Token{AccessToken: "replaced"})
		},
		"the store saves nothing for a minute": func(t *testing.T, older process, old *Token) {
			store := older.stored.Store
			older.stored.Store = updateAway{store}
			older.stored.Token(t.Context(), old)
			time.Sleep(time.Minute)
			older.stored.Store = store
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := new(family)
			_, newer, older := newerAndOlder(t, server)
			old, _ := older.Token(t.Context(), nil)
			emptied(newer, older)
			does(t, older, old)
			for _, old := range []*Token{old, {AccessToken: "replaced"}} {
				older.stored.Token(t.Context(), old)
			}
			send(t, newer, 31*time.Second)
			got, err := older.stored.Token(t.Context(), old)
			if server.calls.Load() != 2 || err != nil || got.AccessToken != "access-2" {
				t.Errorf("%s: got %v, %v after %d exchanges, want access-2 after 2", name, got, err, server.calls.Load())
			}
		})
	}
}

func TestInTheDoubtATokenOfAnAnswerIsSavedOnlyWithARefreshTokenOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProcess(new(storetest.Memory), new(family))
		first, _ := p.Token(t.Context(), nil)
		store := emptied(p)
		p.stored.Look(t.Context()) // notices it
		p.stored.Store = updateAway{store}
		if err := p.stored.Replace(t.Context(), first, &Token{AccessToken: "dropped"}); err != nil {
			t.Errorf("got %v, want no error: nothing is to be saved", err)
		}
		p.stored.Store = store
		p.stored.Replace(t.Context(), first, &Token{AccessToken: "saved", RefreshToken: "own"})
		if v := value(t, store); v.Token.Access_Token != "saved" {
			t.Errorf("the store has %+v, want saved", v)
		}
	})
}

// An updateAway store can only be read.
type updateAway struct{ tokensource.Store }

func (updateAway) Update(context.Context, string, func([]byte, func([]byte) error) error) error {
	return errAway
}

func TestATokenThatMayHaveBeenSavedIsInDoubtWhereTheStoreHasNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, newer, older := newerAndOlder(t, new(family))
		second, _ := newer.Token(t.Context(), nil)
		older.stored.Store = answerLost{store}
		third, err := older.stored.Token(t.Context(), second)
		wantToken(t, third, err, "access-3")
		_, err = newer.stored.Token(t.Context(), third) // spends what older believes to be unsaved
		if err != nil {
			t.Fatal(err)
		}
		emptied(newer, older)
		if got, err := older.stored.Token(t.Context(), &Token{AccessToken: "access-3"}); !isStoreError(err, "update") {
			t.Errorf("got %v, %v, want a StoreError", got, err)
		}
	})
}

// An answerLost store saves, and says that it has not.
type answerLost struct{ tokensource.Store }

func (a answerLost) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return a.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error { return errors.Join(save(data), errAway) })
	})
}

func TestALookThatMeetsALockIsMadeAgainBeforeTheDoubtEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, newer, older := newerAndOlder(t, new(family))
		old, _ := older.Token(t.Context(), nil)
		store := emptied(newer, older)
		older.stored.Token(t.Context(), old)
		go store.Update(t.Context(), "key", func([]byte, func([]byte) error) error { return wait(t.Context(), 31*time.Second) })
		send(t, newer, doubt)
		got, err := older.stored.Token(t.Context(), old)
		wantToken(t, got, err, "access-2")
	})
}

// A lookCounter counts the looks, which take their time and fail in their own way.
type lookCounter struct {
	tokensource.Source
	looks atomic.Int32
	look  func()
}

func (l *lookCounter) Look(context.Context) error {
	l.looks.Add(1)
	l.look()
	return nil
}

func TestACacheLooksEvery20To30SecondsOneAtATimeAndWithin3SecondsOfAFailure(t *testing.T) {
	failing := tokensource.Func(func(context.Context, *Token) (*Token, error) { return nil, errors.New("the endpoint is down") })
	ask := func(c *tokensource.Cache) { c.Token(context.Background(), nil) }
	for name, test := range map[string]struct {
		source      tokensource.Source
		look        func()
		request     func(*tokensource.Cache)
		least, most int32
	}{
		"good tokens":         {tokens("t"), func() {}, ask, 20, 30},
		"no token":            {failing, func() {}, ask, 20, 31},
		"replaced each time":  {tokens("t"), func() {}, replaceEach, 20, 30},
		"a look that panics":  {tokens("t"), func() { panic("the store's fault") }, ask, 150, 250},
		"a look that is slow": {tokens("t"), func() { time.Sleep(20 * time.Minute) }, ask, 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			source := &lookCounter{Source: test.source, look: test.look}
			c := &tokensource.Cache{Source: source, Patience: -1}
			for range 605 {
				test.request(c)
				time.Sleep(time.Second)
			}
			if got := source.looks.Load(); got < test.least || got > test.most {
				t.Errorf("%s: %d looks in 10 minutes, want %d to %d", name, got, test.least, test.most)
			}
			before := source.looks.Load()
			time.Sleep(time.Hour)
			if got := source.looks.Load(); got != before {
				t.Errorf("%s: %d looks, though there were no more requests", name, got-before)
			}
		})
	}
}

// replaceEach replaces the token after each request, as a server may that prolongs a session.
func replaceEach(c *tokensource.Cache) {
	old, _ := c.Token(context.Background(), nil)
	c.Replace(context.Background(), old, &Token{AccessToken: old.AccessToken + "+"})
}
