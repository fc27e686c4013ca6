package tokensource_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestATokenOfALateAnswerDoesNotBringBackASpentRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		token, err := b.Token(t.Context(), first)
		wantToken(t, token, err, "access-2")
		if err := a.Replace(t.Context(), first, &Token{AccessToken: "along-with-an-answer"}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			token, _ = b.Token(t.Context(), token)
		}
		if server.current.Load() != 5 {
			t.Errorf("a refresh token was sent twice; the store has %+v", value(t, store))
		}
	})
}

func TestATokenOfAnAnswerIsSavedIfItIsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a := newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		if err := a.Replace(t.Context(), first, &Token{AccessToken: "next"}); err != nil {
			t.Fatal(err)
		}
		if v := value(t, store); v.Token.Access_Token != "next" || v.Token.Refresh_Token != "refresh-1" {
			t.Errorf("the store has %+v, want next with refresh-1", v)
		}
	})
}

func TestATokenOfAnAnswerDoesNotWaitForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a := newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		server.delay = 9 * time.Second
		go newProcess(store, server).stored.Token(t.Context(), first)
		synctest.Wait()
		began := time.Now()
		err := a.Replace(t.Context(), first, &Token{AccessToken: "next"})
		if waited := time.Since(began); waited != 0 || err != nil {
			t.Errorf("waited %v, error %v, want none", waited, err)
		}
		time.Sleep(10 * time.Second)
	})
}

func TestTwoTokensOfAnswersDoNotBringBackASpentRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(storetest.Memory), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		server.delay = time.Second
		go b.Token(t.Context(), first) // spends refresh-1 under the lock
		synctest.Wait()
		one, two := &Token{AccessToken: "one"}, &Token{AccessToken: "two"}
		a.Replace(t.Context(), first, one) // nil: somebody else has the lock
		time.Sleep(2 * time.Second)
		a.Replace(t.Context(), one, two)
		if v := value(t, store); v.Token.Refresh_Token != "refresh-2" {
			t.Errorf("the store has %+v, want refresh-2, the only one that works", v)
		}
		a.Token(t.Context(), two)
		if server.current.Load() < 0 {
			t.Error("a refresh token was sent twice, the family is dead")
		}
	})
}

func TestATokenOfAnAnswerIsNotHeldUpByAStoreThatCannotSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a := newProcess(store, server)
		first, _ := a.Token(t.Context(), nil)
		store.save.Store(true)
		began := time.Now()
		err := a.Replace(t.Context(), first, &Token{AccessToken: "next"})
		if waited := time.Since(began); waited > 5*time.Second || !isStoreError(err, "save") {
			t.Errorf("got %v after %v, want a StoreError within 5s", err, waited)
		}
		store.save.Store(false)
		a.stored.Token(t.Context(), nil)
		if v := value(t, store); v.Token.Access_Token != "next" {
			t.Errorf("the store has %+v, want next", v)
		}
	})
}
