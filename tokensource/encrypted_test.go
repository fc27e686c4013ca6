package tokensource_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// aesKey is a key of 32 bytes.
func aesKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// stored is what a store holds.
func stored(t *testing.T, store tokensource.Store, key string) []byte {
	t.Helper()
	data, err := store.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantStored(t *testing.T, store tokensource.Store, key, want string) {
	t.Helper()
	if got := stored(t, store, key); string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnEncryptedValueIsReadByItsKeyAndShowsNothing(t *testing.T) {
	store := new(storetest.Memory)
	e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	if got := stored(t, e, "k"); got != nil {
		t.Errorf("got %q for a key without a value, want nil", got)
	}
	var seen [][]byte
	for range 2 {
		put(t, e, "k", "the secret")
		wantStored(t, e, "k", "the secret")
		seen = append(seen, stored(t, store, "k"))
	}
	if bytes.Contains(seen[0], []byte("secret")) || bytes.Contains(seen[0], aesKey(1)[:8]) || bytes.Equal(seen[0], seen[1]) {
		t.Errorf("the store has %q and %q", seen[0], seen[1])
	}
	put(t, e, "empty", "")
	if got := stored(t, e, "empty"); got == nil || len(got) != 0 {
		t.Errorf("got %v for an empty value, want it empty and not nil", got)
	}
}

func TestAValueOfAnEarlierReleaseIsRead(t *testing.T) {
	const sealed = "74742d7365616c656401adc1214efd263f885c82908d54d447488d00ed0a07f9d04d8d6849bd458b" +
		"22ad2184ff4eb8237c0b7fce688495b4"
	data, err := hex.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	store := new(storetest.Memory)
	put(t, store, "k", string(data))
	wantStored(t, &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}, "k", "the secret")
}

func TestTheErrorsOfTheStoreBelowAndOfFnComeAsTheyAre(t *testing.T) {
	store := new(brokenStore)
	e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	saves := func(_ []byte, save func([]byte) error) error { return save([]byte("value")) }
	put(t, e, "k", "value")
	store.save.Store(true)
	if err := e.Update(t.Context(), "k", saves); err != errAway {
		t.Errorf("save: got %v, want the store's error", err)
	}
	if err := e.Update(t.Context(), "k", func([]byte, func([]byte) error) error { return unavailable }); err != unavailable {
		t.Errorf("fn: got %v, want its own error", err)
	}
	store.load.Store(true)
	if got, err := e.Load(t.Context(), "k"); got != nil || err != errAway {
		t.Errorf("load: got %q and %v, want the store's error", got, err)
	}
}

func TestKeysAreChangedWithoutLosingAValue(t *testing.T) {
	store := new(storetest.Memory)
	before := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	during := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(2), aesKey(1)}}
	after := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(2)}}
	put(t, before, "k", "old")
	wantStored(t, during, "k", "old")
	put(t, during, "k", "new")
	wantStored(t, after, "k", "new")
	if _, err := before.Load(t.Context(), "k"); err == nil {
		t.Error("the old key reads what the new one wrote")
	}
}

// spoiled returns what went wrong with both methods, and that fn was not called.
func spoiled(t *testing.T, e *tokensource.Encrypted, key string) (load, update error) {
	t.Helper()
	_, load = e.Load(t.Context(), key)
	update = e.Update(t.Context(), key, func(value []byte, _ func([]byte) error) error {
		t.Errorf("fn was called with %q", value)
		return nil
	})
	return load, update
}

func TestAValueThatCannotBeDecryptedIsAnErrorAndStays(t *testing.T) {
	store := new(storetest.Memory)
	e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	put(t, e, "k", "hush")
	good := string(stored(t, store, "k"))
	newer := []byte(good)
	newer[len("tt-sealed")] = 2
	changed := []byte(good)
	changed[len(changed)-1] ^= 1
	relabelled := []byte(good)
	relabelled[len("tt-sealed")+1] ^= 1
	for want, data := range map[string]string{
		"is not encrypted by Encrypted, or was": `{"v":1,"gen":1,"token":{"access_token":"hush"}}`,
		"cut short":                             good[:12],
		"changed, cut short":                    good[:len(good)-1],
		"was changed":                           string(changed),
		"is of version 2, not 1":                string(newer),
		"none of Encrypted.Keys":                string(relabelled),
		"is not encrypted":                      "",
		"changed, cut short, or mo":             good[:len("tt-sealed")+9],
	} {
		put(t, store, "k", data)
		load, update := spoiled(t, e, "k")
		for _, err := range []error{load, update} {
			if !isStoreError(err, "decode") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%q: got %v, want an error that has: %s", data, err, want)
			}
		}
		wantStored(t, store, "k", data)
	}
}

func TestAValueThatWasMovedToAnotherKeyIsAnError(t *testing.T) {
	store := new(storetest.Memory)
	e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	put(t, e, "alice", "a")
	put(t, store, "bob", string(stored(t, store, "alice")))
	if load, update := spoiled(t, e, "bob"); load == nil || update == nil || !strings.Contains(load.Error(), "moved from another key") {
		t.Errorf("got %v and %v, want errors", load, update)
	}
}

func TestAWrongEncryptionKeyIsAnErrorThatNamesTheField(t *testing.T) {
	store := new(storetest.Memory)
	for want, e := range map[string]*tokensource.Encrypted{
		"Encrypted.Store is nil":                  {Keys: [][]byte{aesKey(1)}},
		"Encrypted.Keys is empty":                 {Store: store},
		"Encrypted.Keys[0] has 0 bytes":           {Store: store, Keys: [][]byte{nil}},
		"Encrypted.Keys[1] has 16 bytes, want 32": {Store: store, Keys: [][]byte{aesKey(1), make([]byte, 16)}},
		"encrypted with none of Encrypted.Keys":   {Store: store, Keys: [][]byte{aesKey(9)}},
	} {
		put(t, &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}, "k", "x")
		load, update := spoiled(t, e, "k")
		for _, err := range []error{load, update} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error that has: %s", err, want)
			}
		}
	}
}

func TestAnEncryptedTokenSharesItsWayWithAPlainOne(t *testing.T) {
	store, server := new(storetest.Memory), new(family)
	e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
	a, b := newProcess(e, server), newProcess(e, server)
	first, err := a.Token(t.Context(), nil)
	wantToken(t, first, err, "access-1")
	b.Token(t.Context(), nil)
	got, err := b.Token(t.Context(), first)
	wantToken(t, got, err, "access-2")
}

func TestAWrongKeyIsNoStoreThatIsAway(t *testing.T) {
	store := new(storetest.Memory)
	put(t, &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}, "k", "x")
	unasked := tokensource.Func(func(context.Context, *Token) (*Token, error) {
		t.Error("the source was asked, want an error before")
		return nil, tokensource.ErrReauthenticate
	})
	for _, keys := range [][][]byte{{aesKey(2)}, nil} {
		e := &tokensource.Encrypted{Store: store, Keys: keys}
		s := &tokensource.Stored{Source: unasked, Store: e, Key: "k", Unshared: true}
		if _, err := s.Token(t.Context(), nil); !isStoreError(err, "decode") {
			t.Errorf("%v: got %v, want a StoreError of decode", keys, err)
		}
	}
}
