package main

import (
	"net/http"

	"golang.org/x/oauth2"
	"k8s.io/client-go/transport"
	"k8s.io/klog/v2"
)

var kubernetes = peer{
	name:   "client-go",
	module: "k8s.io/client-go",
	setup: "`transport.ResettableTokenSourceWrapTransport` over a `NewCachedTokenSource` that asks `x/oauth2` each time. " +
		"Its credential plugins behave alike after a 401, with a process for each refresh; its token files are read once a minute.",
	dial: func(w *world) (doer, error) {
		config := xoauth2Config(w)
		return kubernetesOver(w, fetches(func() (*oauth2.Token, error) { return config.Token(xoauth2Context(w)) })), nil
	},
	login: func(w *world, refresh, _ string) (doer, error) {
		return kubernetesOver(w, xoauth2Login(w, refresh)), nil
	},
}

func kubernetesOver(w *world, source oauth2.TokenSource) *http.Client {
	klog.SetLogger(klog.Logger{}) // it logs what it does not return
	cached := transport.NewCachedTokenSource(source)
	return &http.Client{Transport: transport.ResettableTokenSourceWrapTransport(cached)(w.base)}
}

// fetches is a TokenSource that keeps nothing.
type fetches func() (*oauth2.Token, error)

func (f fetches) Token() (*oauth2.Token, error) { return f() }
