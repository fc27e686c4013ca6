package tokensource_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// FuzzUnmarshal reads a stored token of any bytes. What is read is a token, as
// x/oauth2's field names say, and comes back from Marshal as it is.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{``, `{}`, `null`, `[]`, `{"access_token":1}`, `{"access_token":"at","expiry":"soon"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := tokensource.Unmarshal(data)
		if (tok == nil) != (err != nil) || err == nil && tok.AccessToken+tok.RefreshToken == "" {
			t.Fatalf("%q: got %v, %v, want a token or an error", data, tok, err)
		}
		if err != nil {
			return
		}
		if tok.RefreshAt.IsZero() {
			tok.RefreshAt = tok.Expiry
		}
		again, err := tokensource.Marshal(tok)
		if err != nil {
			t.Fatalf("%q: Marshal: %v", data, err)
		}
		wantSameFields(t, again, tok)
		got, err := tokensource.Unmarshal(again)
		if err != nil || !got.Expiry.Equal(tok.Expiry) || !got.RefreshAt.Equal(tok.RefreshAt) {
			t.Fatalf("%q: got %q and from it %#v, %v", data, again, got, err)
		}
		sameExtra := written(got.Extra) == written(tok.Extra)
		got.Expiry, got.RefreshAt, got.Extra = tok.Expiry, tok.RefreshAt, tok.Extra // equal, but perhaps not in the same place or spelling
		if !sameExtra || !reflect.DeepEqual(*got, *tok) {
			t.Fatalf("%q: got %q after Marshal, which reads otherwise", data, again)
		}
	})
}

// fields are a token as another program reads it.
type fields struct {
	Access  string                     `json:"access_token"`
	Refresh string                     `json:"refresh_token"`
	Type    string                     `json:"token_type"`
	Expiry  time.Time                  `json:"expiry"`
	At      time.Time                  `json:"refresh_at"`
	Scope   string                     `json:"scope"`
	Extra   map[string]json.RawMessage `json:"extra"`
}

// written is Extra in the one spelling that encoding/json has for it; empty for none.
func written(extra map[string]json.RawMessage) string {
	if len(extra) == 0 {
		return ""
	}
	return string(must(json.Marshal(extra)))
}

// wantSameFields checks what Marshal wrote as another program would read it.
func wantSameFields(t *testing.T, data []byte, tok *Token) {
	t.Helper()
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	if f.Access != tok.AccessToken || f.Type != tok.TokenType || f.Refresh != tok.RefreshToken || !f.Expiry.Equal(tok.Expiry) || !f.At.Equal(tok.RefreshAt) ||
		f.Scope != tok.Scope || written(f.Extra) != written(tok.Extra) {
		t.Fatalf("Marshal wrote %q", data)
	}
}

// A kept value is what Stored has in a Store, as another program would read it.
type kept struct {
	V, Gen         uint64
	Login          string
	Lost           int64
	Token          json.RawMessage
	Reauthenticate bool
	fields         fields
}

// doubtful reports whether the Store has lost a newer refresh token, perhaps.
func (k kept) doubtful() bool {
	return k.fields.Refresh != "" && time.Since(time.UnixMilli(k.Lost)).Abs() < 45*time.Second
}

// readKept reads a value; ok is false for one that is none.
func readKept(value []byte) (k kept, ok bool) {
	if json.Unmarshal(value, &k) != nil || k.V != 1 || k.Gen == 0 || k.Gen >= 1<<53 || (k.Token == nil) != k.Reauthenticate {
		return k, false
	}
	if k.Reauthenticate {
		return k, true
	}
	err := json.Unmarshal(k.Token, &k.fields)
	if err == nil {
		_, err = json.Marshal(k.fields) // package time reads more times than it writes
	}
	return k, err == nil && (visible(k.fields.Access) || k.fields.Access == "" && k.fields.Refresh != "")
}

// FuzzStored lets a process find any value in its Store, and ask for a token
// twice, the second time because the first was refused. A value that cannot be
// read stays as it is, is an error that shows nothing of it, and stops logins
// and logouts, too; from one that can be read comes its token, or one that the
// Source gave for it, saved with a greater generation. A refresh token stays where
// it is as long as the Store may have lost a newer one.
func FuzzStored(f *testing.F) {
	for _, s := range []string{``, `null`, `{}`, `{"v":1,"gen":1}`, `{"v":1,"gen":1,"token":null,"reauthenticate":true}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		synctest.Test(t, func(t *testing.T) {
			store, calls := new(storetest.Memory), 0
			put(t, store, "key", string(value))
			s := &tokensource.Stored{Store: store, Key: "key", Source: tokensource.Func(func(context.Context, *Token) (*Token, error) {
				calls++
				return &Token{AccessToken: "from-the-source", RefreshToken: "rt"}, nil
			})}
			first, err := s.Token(t.Context(), nil)
			want, ok := readKept(value)
			switch {
			case !ok:
				wantUntouched(t, s, value, err)
			case want.Reauthenticate:
				if !errors.Is(err, tokensource.ErrReauthenticate) {
					t.Fatalf("%q: got %v, %v, want ErrReauthenticate", value, first, err)
				}
			case want.doubtful():
				_, again := s.Token(t.Context(), first)
				failure, ok := errors.AsType[*tokensource.StoreError](again)
				if !ok || failure.Op != "update" || !bytes.Equal(stored(t, store, "key"), value) {
					t.Fatalf("%q: got %v, then %v, and %q in the store, want it untouched", value, err, again, stored(t, store, "key"))
				}
			case err != nil || calls == 0 && first.AccessToken != want.fields.Access || !visible(first.AccessToken):
				t.Fatalf("%q: got %v, %v after %d calls", value, first, err, calls)
			default:
				s.Token(t.Context(), first)
				got, ok := readKept(stored(t, store, "key"))
				ok = ok && got.fields.Access == "from-the-source" || got.Gen == 1<<53 // which nobody reads
				if !ok || got.Gen != want.Gen+uint64(calls) {
					t.Fatalf("%q: got %q in the store after %d calls", value, stored(t, store, "key"), calls)
				}
				return
			}
			if calls != 0 {
				t.Fatalf("%q: got %d calls, want none", value, calls)
			}
		})
	})
}

// decodeError is what errors may say of a value that is no stored token.
var decodeError = regexp.MustCompile(`^the value (is not a stored token, or was cut short|is of version [0-9]+, newer than 1|lacks a generation, or a token or reauthenticate|has no usable token)$`)

// wantUntouched checks err and what becomes of a value that cannot be read.
func wantUntouched(t *testing.T, s *tokensource.Stored, value []byte, err error) {
	t.Helper()
	login := &Token{AccessToken: "login", RefreshToken: "rt"}
	_, again := s.Token(t.Context(), login)
	for _, err := range []error{err, again, s.Set(t.Context(), login), s.Replace(t.Context(), login, login), s.Forget(t.Context())} {
		wantUnreadable(t, err, "key", decodeError)
	}
	if got := stored(t, s.Store, "key"); !bytes.Equal(got, value) {
		t.Fatalf("%q: got %q in the store, want it untouched", value, got)
	}
}

// wantUnreadable checks the error of a value that cannot be read, which says only what
// may says and so nothing of the value.
func wantUnreadable(t *testing.T, err error, key string, may *regexp.Regexp) {
	t.Helper()
	failure, ok := errors.AsType[*tokensource.StoreError](err)
	if !ok || failure.Op != "decode" || failure.Key != key || !may.MatchString(failure.Err.Error()) {
		t.Fatalf("key %q: got %v, want a StoreError of decode without the value", key, err)
	}
}

// sealedError is what errors may say of a value that does not open.
var sealedError = regexp.MustCompile(`^the (value is not encrypted by Encrypted, or was cut short|encrypted value is of version [0-9]+, not 1|encrypted value was changed, cut short, or moved from another key|value was encrypted with none of Encrypted\.Keys)$`)

// FuzzEncrypted seals a value and spoils it: it is cut, changed, put under
// another key of the Store, or looked for with another AES key. It opens only if
// it was not spoiled; else it is an error without the value, and nobody gets to
// replace it. Bytes that were never sealed do not open.
func FuzzEncrypted(f *testing.F) {
	f.Add([]byte("hush-hush-hush"), "alice", "bob", uint8(0), []byte{}, 0)
	f.Add([]byte("hush-hush-hush"), "alice", "alice", uint8(0), []byte{}, 0)
	f.Add([]byte("hush-hush-hush"), "alice", "alice", uint8(1), []byte{}, 0)
	f.Add([]byte{}, "alice", "alice", uint8(2), []byte{1}, 40)
	f.Fuzz(func(t *testing.T, value []byte, name, other string, how uint8, change []byte, at int) {
		store := new(storetest.Memory)
		e := &tokensource.Encrypted{Store: store, Keys: [][]byte{aesKey(1)}}
		put(t, e, name, string(value))
		sealed := stored(t, store, name)
		spoilt := spoil(sealed, change, at, how&4 != 0)
		put(t, store, other, string(spoilt))
		reader := &tokensource.Encrypted{Store: store, Keys: [][][]byte{{aesKey(1)}, {aesKey(2)}, {aesKey(2), aesKey(1)}, {aesKey(1), aesKey(2)}}[how&3]}
		if how&3 != 1 && other == name && bytes.Equal(spoilt, sealed) {
			wantStored(t, reader, other, string(value))
			return
		}
		load, update := spoiled(t, reader, other)
		wantUnreadable(t, load, other, sealedError)
		wantUnreadable(t, update, other, sealedError)
		wantStored(t, store, other, string(spoilt))
	})
}

// spoil returns a copy of sealed that is cut and goes on with change there, or
// has change in its place, or is change alone.
func spoil(sealed, change []byte, at int, alone bool) []byte {
	if alone {
		return change
	}
	if at < 0 || at >= len(sealed) {
		return bytes.Clone(sealed)
	}
	if len(change) > 0 && len(change)%2 == 0 && at+len(change) <= len(sealed) {
		return slices.Concat(sealed[:at], change, sealed[at+len(change):])
	}
	return slices.Concat(sealed[:at], change)
}
