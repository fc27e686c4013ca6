package tokensource_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

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

func TestALoginThatCouldNotBeSavedLosesToALaterLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		store.update.Store(true)
		a.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "refresh-0"})
		store.update.Store(false)
		time.Sleep(time.Hour)
		if err := b.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.stored.Token(t.Context(), nil)
		got, err := newProcess(store, server).Token(t.Context(), nil)
		if !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, %v, want ErrReauthenticate", got, err)
		}
	})
}

func TestALogoutThatCouldNotBeSavedHoldsInItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a := newProcess(store, server)
		a.Token(t.Context(), nil)
		store.update.Store(true)
		if err := a.Forget(t.Context()); !isStoreError(err, "update") {
			t.Errorf("got %v, want a StoreError", err)
		}
		time.Sleep(time.Hour)
		if _, err := a.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
	})
}

func TestALogoutThatFailedIsSavedByTheNextToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Minute}
		a, b := newProcess(store, server), newProcess(store, server)
		a.Token(t.Context(), nil)
		b.Token(t.Context(), nil)
		store.update.Store(true)
		a.Forget(t.Context())
		store.update.Store(false)
		for range 100 {
			time.Sleep(time.Minute)
			a.Token(t.Context(), nil)
		}
		if got, err := b.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, %v, want ErrReauthenticate", got, err)
		}
		b.Set(t.Context(), &Token{AccessToken: "login"})
		time.Sleep(time.Hour)
		got, err := a.Token(t.Context(), nil)
		wantToken(t, got, err, "login")
	})
}

func TestALoginThatFailedIsSavedByTheNextToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), new(family)
		a, b := newProcess(store, server), newProcess(store, server)
		b.Forget(t.Context())
		time.Sleep(11 * time.Second) // later, whatever a's clock says
		store.update.Store(true)
		a.Set(t.Context(), &Token{AccessToken: "login", RefreshToken: "refresh-0"})
		store.update.Store(false)
		for range 100 {
			time.Sleep(time.Minute)
			a.Token(t.Context(), nil)
		}
		_, err := b.Token(t.Context(), nil)
		if err != nil {
			t.Errorf("got %v, want the login", err)
		}
	})
}
