package oauth2source_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oauth2source"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestATokenKeepsWhatCameWithIt(t *testing.T) {
	expiry := time.Now().Add(time.Hour)
	token, err := oauth2source.TokenSource(t.Context(), tokensource.Static(&tokensource.Token{
		AccessToken: "at", TokenType: "bearer", RefreshToken: "rt", Expiry: expiry, Scope: "a b",
		Extra: map[string]json.RawMessage{"id_token": json.RawMessage(`"eyJ"`), "n": json.RawMessage("1.5")},
	})).Token()
	if err != nil {
		t.Fatal(err)
	}
	want(t, "the token", fmt.Sprint(token.AccessToken, token.TokenType, token.Expiry, token.Valid()), fmt.Sprint("at", "bearer", expiry, true))
	want(t, "extra", fmt.Sprintf("%v, %v, %v, %v", token.Extra("scope"), token.Extra("id_token"), token.Extra("n"), token.Extra("missing")), "a b, eyJ, 1.5, <nil>")
	want(t, "the refresh token, which only the Cache may spend", token.RefreshToken, "")
}

func TestATokenThatNeedsAProofIsAnError(t *testing.T) {
	for _, kind := range []string{"DPoP", "N_A"} {
		token, err := oauth2source.TokenSource(t.Context(), tokensource.Static(&tokensource.Token{AccessToken: "at", TokenType: kind})).Token()
		if token != nil || err == nil {
			t.Errorf("%s: got %v, %v; want an error", kind, token, err)
		}
	}
}

// Both sources get the same answers of the same server, and programs that look into the
// error of one find the same in that of the other.
func TestARefusalIsARetrieveErrorAsThatOfXOAuth2(t *testing.T) {
	srv := tokentest.NewServer(t)
	for name, c := range map[string]struct {
		failure tokentest.Failure
		final   bool
	}{
		"invalid_grant": {tokentest.Failure{Status: 400, Body: `{"error":"invalid_grant","error_description":"gone","error_uri":"https://e.test"}`}, true},
		"429":           {tokentest.Failure{Status: 429, Body: `{"error":"slow_down"}`, RetryAfter: "7"}, false},
		"503":           {tokentest.Failure{Status: 503, Body: "<html>", ContentType: "text/html", RetryAfter: "7"}, false},
		"200":           {tokentest.Failure{Status: 200, Body: `{"error":"bad_refresh_token"}`}, false},
	} {
		srv.ClearFailures()
		c.failure.Times = -1
		srv.Fail(c.failure)
		config := configOf(srv)
		config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
		login := &oauth2.Token{RefreshToken: srv.RefreshToken()}
		_, err := config.TokenSource(t.Context(), login).Token()
		theirs, _ := errors.AsType[*oauth2.RetrieveError](err)

		grant := oauth2source.RefreshToken(t.Context(), config)
		grant.RefreshToken = login.RefreshToken
		_, err = oauth2source.TokenSource(t.Context(), grant).Token()
		ours, ok := errors.AsType[*oauth2.RetrieveError](err)
		if !ok {
			t.Fatalf("%s: got %v, want a RetrieveError", name, err)
		}
		want(t, name, seen(ours), seen(theirs))
		want(t, name+" needs a login", errors.Is(err, tokensource.ErrReauthenticate), c.final)
		refusal, _ := errors.AsType[*tokensource.EndpointError](err)
		want(t, name+" is an EndpointError", refusal != nil, true)
	}
}

// seen is what programs read of a RetrieveError. They read Body as JSON.
func seen(e *oauth2.RetrieveError) string {
	var body map[string]string
	json.Unmarshal(e.Body, &body)
	return fmt.Sprint(e.Response.Status, e.Response.StatusCode, e.Response.Header.Get("Retry-After"), e.ErrorCode, e.ErrorDescription, e.ErrorURI,
		body["error"], body["error_description"], body["error_uri"])
}

func TestAnErrorHasNoSecret(t *testing.T) {
	srv := tokentest.NewServer(t)
	grant := oauth2source.RefreshToken(t.Context(), configOf(srv))
	grant.RefreshToken = srv.RefreshToken()
	srv.Fail(tokentest.Failure{Times: -1, Status: 400, Body: fmt.Sprintf(`{"error":"invalid_grant","error_description":%q,"error_uri":%q,"hint":%[1]q}`,
		grant.RefreshToken, "https://e.test?"+srv.ClientSecret)})
	_, err := oauth2source.TokenSource(t.Context(), grant).Token()
	e, _ := errors.AsType[*oauth2.RetrieveError](err)
	if e == nil {
		t.Fatalf("got %v, want a RetrieveError", err)
	}
	text := fmt.Sprintf("%v %v %+v %s", err, e, e.Response, e.Body)
	for _, secret := range []string{grant.RefreshToken, srv.ClientSecret} {
		want(t, "a secret in "+text, strings.Contains(text, secret), false)
	}
}

func TestALogoutLooksLikeADeadRefreshToken(t *testing.T) {
	cache := new(tokensource.Cache)
	cache.Forget(t.Context())
	_, err := oauth2source.TokenSource(t.Context(), cache).Token()
	e, _ := errors.AsType[*oauth2.RetrieveError](err)
	if e == nil || e.ErrorCode != "invalid_grant" || e.Response.StatusCode != 400 || !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %#v of %v, want invalid_grant and ErrReauthenticate", e, err)
	}
}

func TestErrorsThatAreNoAnswersStayWhatTheyAre(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	own := errors.New("own")
	for _, c := range []struct {
		source tokensource.Source
		want   error
	}{
		{&tokensource.Cache{Source: tokensource.Static(nil)}, context.Canceled},
		{tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { return nil, own }), own},
	} {
		_, err := oauth2source.TokenSource(ctx, c.source).Token()
		_, retrieve := errors.AsType[*oauth2.RetrieveError](err)
		if !errors.Is(err, c.want) || retrieve {
			t.Errorf("got %v, want %v and no RetrieveError", err, c.want)
		}
	}
	if token, err := oauth2source.TokenSource(ctx, tokensource.Static(nil)).Token(); err == nil {
		t.Errorf("no token: got %v and no error", token)
	}
}

// An API refuses the token of an SDK. The SDK gets the next one from the Cache, which
// has learnt of the refusal from an Auth.
func TestAnSDKAndAnAuthShareACache(t *testing.T) {
	srv := tokentest.NewServer(t)
	cache := &tokensource.Cache{Source: oauth2source.RefreshToken(t.Context(), configOf(srv))}
	cache.Set(t.Context(), oauth2source.Token(&oauth2.Token{RefreshToken: srv.RefreshToken()}))
	sdk := &http.Client{Transport: &oauth2.Transport{Source: oauth2source.TokenSource(t.Context(), cache)}}
	for round := range 5 {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if resp, err := sdk.Get(srv.APIURL()); err != nil || resp.StatusCode != 200 {
					t.Errorf("round %d: got %v, %v", round, resp, err)
				}
			})
		}
		all.Wait()
		srv.RevokeAccess()
		token := cache.Peek(t.Context(), nil)
		if _, err := cache.Token(t.Context(), token); err != nil { // as Auth does after a refusal
			t.Fatal(err)
		}
	}
	want(t, "refreshes", srv.Counts().Rotations, 6)
}
