package main

import (
	"context"
	"net/http"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

var xoauth2 = peer{
	name:   "x/oauth2",
	module: "golang.org/x/oauth2",
	setup:  "`oauth2.Transport` over a `clientcredentials.Config`. Processes: `oauth2.Config.TokenSource`.",
	dial: func(w *world) (doer, error) {
		return &http.Client{Transport: xoauth2Over(w, xoauth2Config(w).TokenSource(xoauth2Context(w)))}, nil
	},
	login: func(w *world, refresh, _ string) (doer, error) {
		return &http.Client{Transport: xoauth2Over(w, xoauth2Login(w, refresh))}, nil
	},
}

var retryable = peer{
	name:   "go-retryablehttp over x/oauth2",
	module: "github.com/hashicorp/go-retryablehttp",
	setup:  "its `Client` over that of `x/oauth2`, with its own policy, which tries errors again, and no 401.",
	dial: func(w *world) (doer, error) {
		return retryableOver(xoauth2Over(w, xoauth2Config(w).TokenSource(xoauth2Context(w)))), nil
	},
	login: func(w *world, refresh, _ string) (doer, error) {
		return retryableOver(xoauth2Over(w, xoauth2Login(w, refresh))), nil
	},
}

func xoauth2Over(w *world, source oauth2.TokenSource) *oauth2.Transport {
	return &oauth2.Transport{Source: source, Base: w.base}
}

func xoauth2Config(w *world) *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID:     clientID,
		ClientSecret: clientSecret,
		TokenURL:     w.Auth + "/token",
		AuthStyle:    oauth2.AuthStyleInHeader, // else it finds out by asking twice
	}
}

func xoauth2Login(w *world, refresh string) oauth2.TokenSource {
	config := &oauth2.Config{
		ClientID:     clientID,
		ClientSecret: clientSecret,
		Endpoint:     oauth2.Endpoint{TokenURL: w.Auth + "/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
	return config.TokenSource(xoauth2Context(w), &oauth2.Token{RefreshToken: refresh})
}

func xoauth2Context(w *world) context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, w.client())
}

// A retrying is a retryablehttp.Client that takes a plain request.
type retrying struct{ client *retryablehttp.Client }

func retryableOver(rt http.RoundTripper) retrying {
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.HTTPClient = &http.Client{Transport: rt}
	return retrying{client}
}

func (r retrying) Do(req *http.Request) (*http.Response, error) {
	again, err := retryablehttp.FromRequest(req)
	if err != nil {
		return nil, err
	}
	return r.client.Do(again)
}
