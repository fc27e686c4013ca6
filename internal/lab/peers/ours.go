package main

import (
	"net/http"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/filestore"
	"github.com/tokentripper/tokentripper/transport"
)

var ours = peer{
	name:   "tokentripper",
	module: "github.com/tokentripper/tokentripper",
	setup: "`transport.Auth` over a `tokensource.Cache` over `ClientCredentials`; `MaxBody` is 64 MiB, so that it can send all of the bodies again. " +
		"Processes: `Stored` over a `filestore`.",
	dial: func(w *world) (doer, error) {
		return oursOver(w, &tokensource.ClientCredentials{Endpoint: oursEndpoint(w)}), nil
	},
	login: func(w *world, refresh, dir string) (doer, error) {
		return oursOver(w, &tokensource.Stored{
			Source: &tokensource.RefreshToken{Endpoint: oursEndpoint(w), RefreshToken: refresh},
			Store:  &filestore.Store{Dir: dir},
			Key:    "login",
		}), nil
	},
}

func oursOver(w *world, source tokensource.Source) *http.Client {
	return &http.Client{Transport: &transport.Auth{
		Source:  &tokensource.Cache{Source: source},
		Base:    w.base,
		MaxBody: 64 << 20,
	}}
}

func oursEndpoint(w *world) tokensource.Endpoint {
	return tokensource.Endpoint{
		URL:          w.Auth + "/token",
		ClientID:     clientID,
		ClientSecret: clientSecret,
		Client:       w.client(),
	}
}
