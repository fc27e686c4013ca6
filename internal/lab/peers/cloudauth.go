package main

import (
	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/httptransport"
)

var cloudAuth = peer{
	name:   "cloud.google.com/go/auth",
	module: "cloud.google.com/go/auth",
	setup: "`httptransport.AddAuthorizationMiddleware` with a cached provider for a service account's key. " +
		"Processes: its provider of three-legged OAuth.",
	dial: func(w *world) (doer, error) {
		provider, err := auth.New2LOTokenProvider(&auth.Options2LO{
			Email:      "client@example.com",
			PrivateKey: appKey(),
			TokenURL:   w.Auth + "/token",
			Client:     w.client(),
		})
		if err != nil {
			return nil, err
		}
		return cloudAuthOver(w, auth.NewCachedTokenProvider(provider, nil))
	},
	login: func(w *world, refresh, _ string) (doer, error) {
		provider, err := auth.New3LOTokenProvider(&auth.Options3LO{
			ClientID:     clientID,
			ClientSecret: clientSecret,
			TokenURL:     w.Auth + "/token",
			AuthURL:      w.Auth + "/authorize",
			AuthStyle:    auth.StyleInHeader,
			RefreshToken: refresh,
			Client:       w.client(),
		})
		if err != nil {
			return nil, err
		}
		return cloudAuthOver(w, provider)
	},
}

func cloudAuthOver(w *world, provider auth.TokenProvider) (doer, error) {
	client := w.client()
	creds := auth.NewCredentials(&auth.CredentialsOptions{TokenProvider: provider})
	return client, httptransport.AddAuthorizationMiddleware(client, creds)
}
