package main

import (
	"context"

	"oras.land/oras-go/v2/registry/remote/auth"
)

var oras = peer{
	name:   "oras-go",
	module: "oras.land/oras-go/v2",
	setup:  "`auth.Client` with a cache, with the servers as a registry. Its refresh tokens are those of registries, which do not rotate.",
	dial: func(w *world) (doer, error) {
		return orasOver(w, auth.Credential{Username: clientID, Password: clientSecret}), nil
	},
	login: func(w *world, refresh, _ string) (doer, error) {
		return orasOver(w, auth.Credential{RefreshToken: refresh}), nil
	},
}

func orasOver(w *world, credential auth.Credential) *auth.Client {
	return &auth.Client{
		Client:     w.client(),
		Cache:      auth.NewCache(),
		Credential: func(context.Context, string) (auth.Credential, error) { return credential, nil },
	}
}
