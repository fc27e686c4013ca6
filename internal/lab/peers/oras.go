package main

import (
	"context"

	"oras.land/oras-go/v2/registry/remote/auth"
)

var oras = peer{
	name:   "oras-go",
	module: "oras.land/oras-go/v2",
	setup:  "`auth.Client` with a cache, with the servers as a registry. Its refresh tokens are those of registries, which it expects not to rotate.",
	dial: func(w *world) (doer, error) {
		return &auth.Client{
			Client: w.client(),
			Cache:  auth.NewCache(),
			Credential: func(context.Context, string) (auth.Credential, error) {
				return auth.Credential{Username: clientID, Password: clientSecret}, nil
			},
		}, nil
	},
}
