package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestATokenSentAlongWithAnAnswerIsUsedFromThenOn(t *testing.T) {
	cache := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, errors.New("no refresh was expected")
	})}
	cache.Set(t.Context(), &tokensource.Token{AccessToken: "first", RefreshToken: "r"})
	var sent []string
	auth := &transport.Auth{
		Source: cache,
		NewToken: func(resp *http.Response) *tokensource.Token {
			return &tokensource.Token{AccessToken: resp.Header.Get("New-Token")}
		},
		Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, req.Header.Get("Authorization"))
			rec := httptest.NewRecorder()
			rec.Header().Set("New-Token", "second")
			if len(sent) == 2 {
				rec.Header().Set("New-Token", "third")
				rec.WriteHeader(401)
			}
			return rec.Result(), nil
		}),
	}
	for range 2 {
		if err := ok(t, auth); err != nil {
			t.Error(err)
		}
	}
	if got, want := fmt.Sprint(sent), "[Bearer first Bearer second Bearer third]"; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	kept, _ := cache.Token(t.Context(), nil)
	if kept.AccessToken != "second" || kept.RefreshToken != "r" {
		t.Errorf("kept access token %q and refresh token %q, want second and r", kept.AccessToken, kept.RefreshToken)
	}
}

// A replaceable source notes what is handed to its Replace.
type replaceable struct {
	tokensource.Source
	replaced []string
}

func (r *replaceable) Replace(_ context.Context, old, next *tokensource.Token) error {
	r.replaced = append(r.replaced, old.AccessToken+" by "+next.AccessToken)
	return errors.New("does not matter")
}

func TestOnlyAnotherTokenOfAnAnswerIsHandedToTheSource(t *testing.T) {
	source := &replaceable{Source: tokensource.Static(&tokensource.Token{AccessToken: "a"})}
	for _, name := range []string{"", "a", "b"} {
		auth := &transport.Auth{Source: source, Base: &api{likes: func(string) bool { return true }}}
		auth.NewToken = func(*http.Response) *tokensource.Token {
			if name == "" {
				return nil
			}
			return &tokensource.Token{AccessToken: name}
		}
		if err := ok(t, auth); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if got, want := fmt.Sprint(source.replaced), "[a by b]"; got != want {
		t.Errorf("replaced %s, want %s", got, want)
	}
}

func TestATokenOfAnAnswerIsIgnoredByASourceThatTakesNone(t *testing.T) {
	auth := &transport.Auth{
		Source:   tokensource.Static(&tokensource.Token{AccessToken: "a"}),
		NewToken: func(*http.Response) *tokensource.Token { return &tokensource.Token{AccessToken: "b"} },
		Base:     &api{likes: func(token string) bool { return token == "a" }},
	}
	for range 2 {
		if err := ok(t, auth); err != nil {
			t.Error(err)
		}
	}
}

func TestAMalformedTokenFromAnAnswerIsNotTaken(t *testing.T) {
	cache := new(tokensource.Cache)
	cache.Set(t.Context(), &tokensource.Token{AccessToken: "first"})
	for _, bad := range []*tokensource.Token{nil, {}, {AccessToken: "a\r\nb"}} {
		auth := &transport.Auth{
			Source:   cache,
			NewToken: func(*http.Response) *tokensource.Token { return bad },
			Base:     &api{likes: func(token string) bool { return token == "first" }},
		}
		for range 2 {
			if err := ok(t, auth); err != nil {
				t.Errorf("after %v: %v", bad, err)
			}
		}
	}
}
