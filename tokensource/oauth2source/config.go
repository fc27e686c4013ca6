// Package oauth2source connects this library with golang.org/x/oauth2, both ways.
//
// Begin with [RefreshToken] or, the other way, [TokenSource]. RefreshToken and
// [ClientCredentials] make a grant from the Config of a program that uses x/oauth2, and
// [Token] passes a login on:
//
//	cache := &tokensource.Cache{Source: oauth2source.RefreshToken(ctx, config)}
//	err := cache.Set(ctx, oauth2source.Token(token))
//
// The grants are those of package tokensource. So a refusal causes a refresh, a
// [tokensource.Stored] saves refresh tokens that rotate, and errors hold no secret.
//
// [TokenSource] gives the tokens of a Cache to code that wants an oauth2.TokenSource,
// such as the clients of many APIs.
package oauth2source

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokentripper/tokentripper/tokensource"
)

// RefreshToken returns the grant with which config refreshes tokens. Put a
// [tokensource.Cache] over it. Pass the token of an earlier login, by [Token], to
// Cache.Set, or set the grant's RefreshToken.
//
// The token endpoint's client is the one of oauth2.HTTPClient in ctx. Nothing else of
// ctx is used. Like x/oauth2, the grant requests no scopes.
//
// With AuthStyleAutoDetect, the client authenticates by Basic. If the server refuses the
// request, it is sent again with the id and the secret in the form. A client without a
// secret sends its id in the form first, and then by Basic. The way that succeeds first
// is used from then on. Unlike in x/oauth2, a request is not sent again after a status
// of 429 or 5xx, or without an answer, because the server may have spent the refresh
// token.
//
// You may change the fields of the grant before its first use. For example, a TokenURL
// with http needs Endpoint.AllowHTTP, unless the host is loopback.
func RefreshToken(ctx context.Context, config *oauth2.Config) *tokensource.RefreshToken {
	return &tokensource.RefreshToken{
		Endpoint: endpoint(ctx, config.ClientID, config.ClientSecret, config.Endpoint.TokenURL, config.Endpoint.AuthStyle),
	}
}

// ClientCredentials returns the grant that config describes. Put a [tokensource.Cache]
// over it. What [RefreshToken] says of the client, of AuthStyleAutoDetect and of the
// fields is true here, too.
//
// If EndpointParams has a grant_type of its own, Token returns an error and sends no
// request. Write a [tokensource.Func] then, which calls Exchange of the Endpoint with
// that grant's parameters.
func ClientCredentials(ctx context.Context, config *clientcredentials.Config) *tokensource.ClientCredentials {
	e := endpoint(ctx, config.ClientID, config.ClientSecret, config.TokenURL, config.AuthStyle)
	if e.Params = config.EndpointParams; e.Params.Has("grant_type") {
		e.Client = &http.Client{Transport: otherGrant{}}
	}
	return &tokensource.ClientCredentials{Endpoint: e, Scopes: config.Scopes}
}

// otherGrant fails, because ClientCredentials would silently send its own grant_type.
type otherGrant struct{}

func (otherGrant) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Body.Close()
	return nil, errors.New("oauth2source: EndpointParams has a grant_type, which is not client_credentials")
}

func endpoint(ctx context.Context, id, secret, url string, style oauth2.AuthStyle) tokensource.Endpoint {
	client, _ := ctx.Value(oauth2.HTTPClient).(*http.Client)
	e := tokensource.Endpoint{
		URL: url, ClientID: id, ClientSecret: secret, Client: client,
		ClientSecretPost: style == oauth2.AuthStyleInParams,
	}
	switch {
	case style == oauth2.AuthStyleAutoDetect:
		e.Client = detecting(client, unknown)
	case style == oauth2.AuthStyleInHeader && secret == "": // Endpoint sends client_id in the form
		e.Client = detecting(client, otherWay)
	}
	return e
}

// Token returns the token of a login by x/oauth2, for [tokensource.Cache.Set]. It keeps
// the scope, and those of the reply's other members that extra names, such as id_token.
func Token(t *oauth2.Token, extra ...string) *tokensource.Token {
	if t == nil {
		return nil // which Set refuses
	}
	token := &tokensource.Token{AccessToken: t.AccessToken, TokenType: t.TokenType, RefreshToken: t.RefreshToken, Expiry: t.Expiry}
	token.Scope, _ = t.Extra("scope").(string)
	for _, name := range extra {
		value, err := json.Marshal(t.Extra(name))
		if err != nil || string(value) == "null" || string(value) == `""` {
			continue // there is none
		}
		if token.Extra == nil {
			token.Extra = map[string]json.RawMessage{}
		}
		token.Extra[name] = value
	}
	return token
}
