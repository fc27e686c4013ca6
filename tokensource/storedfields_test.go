package tokensource_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func second[T any](_ T, err error) error { return err }

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
