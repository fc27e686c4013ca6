package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// shared returns the subtests for [tokensource.Stored] over the store.
func shared() []behaviour {
	return []behaviour{
		{"many at the first use of an empty store obtain one token", firstUse},
		{"each refresh token is spent once", spentOnce},
		{"a token is saved after its caller has left", callerLeft},
		{"a login reaches the others", login},
		{"a logout reaches the others", logout},
		{"a refused refresh token is refused for all", refusedForAll},
		{"a load that fails obtains nothing", failingLoad},
		{"a save is tried again under the lock", savedAtLast},
		{"a token that could not be saved is used, and saved later", savedLater},
		{"an older value does not turn the token back", rolledBack},
		{"an emptied store does not turn the token back", emptied},
		{"a value of another kind is left alone", leftAlone},
		{"Encrypted keeps its tokens in it", encrypted},
	}
}

// An issuer is a Source as strict as a server that rotates refresh tokens: none is good
// twice.
type issuer struct {
	mu     sync.Mutex
	issued int
	reuses int
	err    error
}

func (i *issuer) Token(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	for range 100 {
		runtime.Gosched() // so that a caller that is not locked out enters, too
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		return nil, i.err
	}
	if (old == nil) != (i.issued == 0) || old != nil && old.RefreshToken != fmt.Sprint("refresh-", i.issued) {
		i.reuses++
	}
	i.issued++
	return token(i.issued), nil
}

// want checks how many tokens were issued, and that each request had the refresh token
// of the token before.
func (i *issuer) want(t *testing.T, issued int) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.issued != issued || i.reuses != 0 {
		t.Errorf("got %d tokens issued, %d of them for another refresh token than the newest; want %d, 0",
			i.issued, i.reuses, issued)
	}
}

// token returns the nth token.
func token(n int) *tokensource.Token {
	return &tokensource.Token{
		AccessToken:  fmt.Sprint("access-", n),
		RefreshToken: fmt.Sprint("refresh-", n),
		Expiry:       time.Now().Add(time.Hour),
	}
}

// stored returns the Stored of one process.
func stored(source tokensource.Source, store tokensource.Store) *tokensource.Stored {
	return &tokensource.Stored{Source: source, Store: store, Key: key}
}

// get asks for a token that differs from old.
func get(t *testing.T, s *tokensource.Stored, old *tokensource.Token) *tokensource.Token {
	t.Helper()
	got, err := s.Token(bounded(t), old)
	if err != nil {
		t.Fatalf("Token: got error %v", err)
	}
	return got
}

// wantToken asks for a token that differs from old, and expects the nth.
func wantToken(t *testing.T, s *tokensource.Stored, old *tokensource.Token, n int) {
	t.Helper()
	if got, want := get(t, s, old), token(n).AccessToken; got.AccessToken != want {
		t.Errorf("Token: got %q; want %q", got.AccessToken, want)
	}
}

func wantError(t *testing.T, s *tokensource.Stored, old *tokensource.Token, want error) {
	t.Helper()
	if _, err := s.Token(bounded(t), old); !errors.Is(err, want) {
		t.Errorf("Token: got error %v; want %v", err, want)
	}
}

// wantStoreError checks that err is a StoreError of the operation.
func wantStoreError(t *testing.T, what string, err error, op string) {
	t.Helper()
	if failure, ok := errors.AsType[*tokensource.StoreError](err); !ok || failure.Op != op || failure.Key != key {
		t.Errorf("%s: got error %v; want a StoreError with Op %q", what, err, op)
	}
}

// wantGeneration checks the generation of the stored value.
func wantGeneration(t *testing.T, store tokensource.Store, want int) {
	t.Helper()
	var value struct{ Gen int }
	if err := json.Unmarshal(load(t, store, key), &value); err != nil || value.Gen != want {
		t.Errorf("the stored value: got generation %d, error %v; want %d", value.Gen, err, want)
	}
}

// firstUse answers the first request once all have arrived.
func firstUse(t *testing.T, place func() opener) {
	const processes = 64
	open, source := place(), new(issuer)
	var all, came sync.WaitGroup
	slow := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		came.Wait()
		return source.Token(ctx, old)
	})
	came.Add(processes)
	for range processes {
		first := sync.OnceFunc(came.Done)
		p := stored(slow, &faults{Store: open(), load: func() error { first(); return nil }})
		all.Go(func() {
			defer first()
			if got, err := p.Token(bounded(t), nil); err != nil || got.AccessToken != token(1).AccessToken {
				t.Errorf("Token: got error %v or another token; want the first", err)
			}
		})
	}
	all.Wait()
	source.want(t, 1)
}

func spentOnce(t *testing.T, place func() opener) {
	const processes, rotations = 8, 5
	open, source := place(), new(issuer)
	var all sync.WaitGroup
	for range processes {
		p := stored(source, open())
		all.Go(func() {
			var old *tokensource.Token
			for range rotations {
				next, err := p.Token(bounded(t), old)
				if err != nil || old != nil && next.AccessToken == old.AccessToken {
					t.Errorf("Token: got error %v or the same token; want another", err)
					return
				}
				old = next
			}
		})
	}
	all.Wait()
	source.mu.Lock()
	issued := source.issued
	source.mu.Unlock()
	if issued < rotations || issued > processes*rotations {
		t.Errorf("got %d tokens issued; want %d to %d", issued, rotations, processes*rotations)
	}
	source.want(t, issued)
}

func callerLeft(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	ctx, leave := context.WithCancel(bounded(t))
	leaving := tokensource.Func(func(call context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		leave()
		return source.Token(call, old)
	})
	stored(leaving, open()).Token(ctx, nil)
	wantToken(t, stored(source, open()), nil, 1)
	source.want(t, 1)
}

// twoWithAToken returns two processes that share the first token.
func twoWithAToken(t *testing.T, source *issuer, open opener) (one, other *tokensource.Stored, old *tokensource.Token) {
	one, other = stored(source, open()), stored(source, open())
	wantToken(t, one, nil, 1)
	return one, other, get(t, other, nil)
}

func login(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	one, other, old := twoWithAToken(t, source, open)
	if err := one.Set(bounded(t), token(100)); err != nil {
		t.Fatalf("Set: got error %v", err)
	}
	wantToken(t, other, old, 100)
	wantToken(t, stored(source, open()), nil, 100)
	source.want(t, 1)
}

func logout(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	one, other, old := twoWithAToken(t, source, open)
	if err := one.Forget(bounded(t)); err != nil {
		t.Fatalf("Forget: got error %v", err)
	}
	wantError(t, other, old, tokensource.ErrReauthenticate)
	wantError(t, stored(source, open()), nil, tokensource.ErrReauthenticate)
	source.want(t, 1)
}

func refusedForAll(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	one, other, old := twoWithAToken(t, source, open)
	source.err = tokensource.ErrReauthenticate
	wantError(t, one, old, tokensource.ErrReauthenticate)
	source.err = nil // a caller that asks it now would get a token
	wantError(t, other, old, tokensource.ErrReauthenticate)
	wantError(t, stored(source, open()), nil, tokensource.ErrReauthenticate)
	if err := one.Set(bounded(t), token(100)); err != nil {
		t.Fatalf("Set: got error %v", err)
	}
	wantToken(t, other, old, 100)
	source.want(t, 1)
}

func failingLoad(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	faulty := &faults{Store: open(), load: failures(1)}
	p := stored(source, faulty)
	_, err := p.Token(bounded(t), nil)
	wantStoreError(t, "Token with a store that does not load", err, "load")
	source.want(t, 0)
	wantToken(t, p, nil, 1)
}

func savedAtLast(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	wantToken(t, stored(source, &faults{Store: open(), save: failures(3)}), nil, 1)
	wantToken(t, stored(source, open()), nil, 1)
	source.want(t, 1)
}

// savedLater loses the lock, because that ends the attempts at once.
func savedLater(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	one := stored(source, &faults{Store: open(), save: lost(1)})
	wantToken(t, one, nil, 1)
	wantToken(t, one, nil, 1)
	wantToken(t, stored(source, open()), nil, 1)
	source.want(t, 1)
}

func rolledBack(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	one := stored(source, open())
	old := get(t, one, nil)
	backup := load(t, open(), key)
	old = get(t, one, old)
	put(t, open(), key, backup)
	overtakes(t, one, open, old, source, 2)
}

func emptied(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	store := &faults{Store: open()}
	one := stored(source, store)
	old := get(t, one, nil)
	open = place()
	store.Store = open()
	overtakes(t, one, open, old, source, 1)
}

// overtakes checks that one saves its token again and spends no refresh token.
func overtakes(t *testing.T, one *tokensource.Stored, open opener, token *tokensource.Token, source *issuer, generation int) {
	t.Helper()
	_, err := one.Token(bounded(t), token)
	wantStoreError(t, "Token where the store has lost records", err, "update")
	wantGeneration(t, open(), generation)
	wantToken(t, stored(source, open()), nil, generation)
	source.want(t, generation)
}

func leftAlone(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	for _, value := range []string{`{"v":99,"gen":1}`, `{"v":1,"gen":1,"tok`, "\x00garbage", ""} {
		put(t, open(), key, []byte(value))
		_, err := stored(source, open()).Token(bounded(t), nil)
		wantStoreError(t, "Token with the value "+value, err, "decode")
		err = stored(source, open()).Set(bounded(t), token(1))
		wantStoreError(t, "Set with the value "+value, err, "decode")
		want(t, open(), key, []byte(value))
	}
	source.want(t, 0)
}

func encrypted(t *testing.T, place func() opener) {
	open, source := place(), new(issuer)
	secret := make([]byte, 32)
	rand.Read(secret)
	seal := func() tokensource.Store { return &tokensource.Encrypted{Store: open(), Keys: [][]byte{secret}} }
	wantToken(t, stored(source, seal()), nil, 1)
	wantToken(t, stored(source, seal()), nil, 1)
	source.want(t, 1)
	if bytes.Contains(load(t, open(), key), []byte("access-1")) {
		t.Error("the store has the access token in the clear; want it encrypted")
	}
	_, err := stored(source, open()).Token(bounded(t), nil)
	wantStoreError(t, "Token without the key", err, "decode")
}
