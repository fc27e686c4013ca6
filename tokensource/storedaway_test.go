package tokensource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// Stored while its Store is away, and tokens of answers.

func TestAGoodTokenIsServedForAMomentWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Hour}
		s := newProcess(store, server).stored
		first, _ := s.Token(t.Context(), nil)
		store.load.Store(true)
		got, err := s.Token(t.Context(), nil)
		wantToken(t, got, err, "access-1")
		if want := time.Now().Add(time.Second); got == nil || !got.RefreshAt.Equal(want) {
			t.Errorf("got %v, want to be asked again in a second", got)
		}
		if got, err := s.Token(t.Context(), first); !isStoreError(err, "load") {
			t.Errorf("refused: got %v and %v, want a StoreError", got, err)
		}
	})
}

func TestNoRefreshTokenIsSpentWithoutTheLockWhoeverHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, server := new(brokenStore), &family{life: time.Minute}
		known := newProcess(store, server).stored
		known.Token(t.Context(), nil)
		time.Sleep(time.Minute)
		store.load.Store(true)
		given := newProcess(store, server).stored
		for name, c := range map[string]struct {
			s   *tokensource.Stored
			old *Token
		}{
			"known": {known, nil},
			"given": {given, &Token{RefreshToken: "refresh-1"}},
		} {
			c.s.Unshared = true
			if got, err := c.s.Token(t.Context(), c.old); !isStoreError(err, "load") || server.calls.Load() != 1 {
				t.Errorf("%s: got %v and %v after %d exchanges, want a StoreError after one", name, got, err, server.calls.Load())
			}
		}
	})
}

func TestWithoutAnyRefreshTokenALoginIsNeededStoreOrNot(t *testing.T) {
	store := new(brokenStore)
	store.load.Store(true)
	s := newProcess(store, new(tokensource.RefreshToken)).stored
	s.Unshared = true
	if _, err := s.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want ErrReauthenticate", err)
	}
}

func TestATokenThatCameWithoutTheStoreIsSavedWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(brokenStore)
		store.load.Store(true)
		s := newProcess(store, tokensource.Static(&Token{AccessToken: "alone"})).stored
		s.Unshared = true
		got, err := s.Token(t.Context(), nil)
		wantToken(t, got, err, "alone")
		store.load.Store(false)
		got, err = s.Token(t.Context(), nil)
		wantToken(t, got, err, "alone")
		if v := value(t, store); v.Token.Access_Token != "alone" {
			t.Errorf("the store has %+v, want alone", v)
		}
	})
}

func TestAFailureWithoutTheStoreIsTheSourcesOwn(t *testing.T) {
	store := new(brokenStore)
	store.load.Store(true)
	s := newProcess(store, failing(unavailable)).stored
	s.Unshared = true
	if got, err := s.Token(t.Context(), nil); got != nil || err != unavailable {
		t.Errorf("got %v and %v, want the source's error", got, err)
	}
	s.Source = tokensource.Func(func(context.Context, *Token) (*Token, error) { return &Token{AccessToken: "a"}, unavailable })
	if _, err := s.Token(t.Context(), nil); err != unavailable {
		t.Errorf("beside a token: got %v, want the source's error", err)
	}
	store.load.Store(false)
	s.Source = tokensource.Static(&Token{AccessToken: "good"})
	got, err := s.Token(t.Context(), nil)
	wantToken(t, got, err, "good")
}

func TestATokenThatNoHeaderMayCarryIsAnErrorWithoutTheStore(t *testing.T) {
	store := new(brokenStore)
	store.load.Store(true)
	p := newProcess(store, tokensource.Static(&Token{AccessToken: "a\nb"}))
	p.stored.Unshared = true
	if _, err := p.Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no header may carry") {
		t.Errorf("got %v, want an error that tells what is wrong with the token", err)
	}
}

func TestATokenOfAnAnswerKeepsItsOwnRefreshTokenOrElseTheNewest(t *testing.T) {
	store := new(storetest.Memory)
	s := newProcess(store, new(family)).stored
	first, _ := s.Token(t.Context(), nil)
	for _, c := range []struct {
		old, next *Token
		want      string
	}{
		{first, &Token{AccessToken: "a"}, "refresh-1"},
		{&Token{AccessToken: "a"}, &Token{AccessToken: "b", RefreshToken: "own"}, "own"},
		{&Token{AccessToken: "a"}, &Token{AccessToken: "late", RefreshToken: "late"}, "own"},
	} {
		if err := s.Replace(t.Context(), c.old, c.next); err != nil {
			t.Fatal(err)
		}
		if v := value(t, store); v.Token.Refresh_Token != c.want {
			t.Errorf("after %s the store has %+v, want %s", c.next.AccessToken, v, c.want)
		}
	}
	s.Store = nil
	if err := s.Replace(t.Context(), &Token{AccessToken: "b"}, &Token{AccessToken: "c"}); err == nil {
		t.Error("without a Store: got no error")
	}
}

func TestALateTokenOfAnAnswerDoesNotConcernTheStore(t *testing.T) {
	store := new(brokenStore)
	s := newProcess(store, new(family)).stored
	s.Token(t.Context(), nil)
	store.update.Store(true)
	if err := s.Replace(t.Context(), &Token{AccessToken: "other"}, &Token{AccessToken: "late"}); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

// millis is what an Expiry is if milliseconds are taken for seconds: no JSON has such a year.
func millis() time.Time { return time.Unix(time.Now().Add(time.Hour).UnixMilli(), 0) }

func TestATokenWhoseTimesNoStoreCanKeepIsSavedWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, obtain := range map[string]func(s *tokensource.Stored, bad *Token) error{
			"of the source": func(s *tokensource.Stored, bad *Token) error {
				s.Source = tokensource.Static(bad)
				return second(s.Token(t.Context(), nil))
			},
			"of a login": func(s *tokensource.Stored, bad *Token) error { return s.Set(t.Context(), bad) },
			"of an answer": func(s *tokensource.Stored, bad *Token) error {
				old := &Token{AccessToken: "old"}
				return errors.Join(s.Set(t.Context(), old), s.Replace(t.Context(), old, bad))
			},
		} {
			store := new(storetest.Memory)
			s := newProcess(store, new(family)).stored
			err := obtain(s, &Token{AccessToken: "a", RefreshToken: "refresh-0", Expiry: millis(), RefreshAt: millis()})
			if v := value(t, store); err != nil || v.Token.Access_Token != "a" || v.Token.Refresh_Token != "refresh-0" || s.Pending() {
				t.Errorf("%s: got %v, the store has %+v, want the token saved", name, err, v)
			}
			s.Source = new(family)
			got, err := s.Token(t.Context(), &Token{AccessToken: "a"})
			wantToken(t, got, err, "access-1")
		}
	})
}

func TestATokenThatIsNotUTF8IsAnErrorAndNotPending(t *testing.T) {
	store, old := new(storetest.Memory), &Token{AccessToken: "old"}
	for _, bad := range []*Token{{AccessToken: "a", RefreshToken: "R\xff1"}, {AccessToken: "a", TokenType: "\xff"}} {
		s := newProcess(store, tokensource.Static(bad)).stored
		for what, err := range map[string]error{
			"Token":   second(s.Token(t.Context(), nil)),
			"Set":     s.Set(t.Context(), bad),
			"Replace": s.Replace(t.Context(), old, bad),
			"Marshal": second(tokensource.Marshal(bad)),
		} {
			if err == nil || !strings.Contains(err.Error(), "not UTF-8") || strings.Contains(err.Error(), "R") || s.Pending() {
				t.Errorf("%s: got %v, pending: %t, want an error that says it is not UTF-8", what, err, s.Pending())
			}
		}
	}
	if data, _ := store.Load(t.Context(), "key"); data != nil {
		t.Errorf("the store has %s, want nothing", data)
	}
}

func TestAKeyOf200BytesIsNotTooLong(t *testing.T) {
	s := newProcess(new(storetest.Memory), new(family)).stored
	for len(s.Key) < 200 {
		s.Key += "k"
	}
	got, err := s.Token(t.Context(), nil)
	wantToken(t, got, err, "access-1")
}
