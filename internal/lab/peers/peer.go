package main

import "net/http"

// A peer is one way to keep a client authenticated.
type peer struct {
	name   string
	module string // whose version the build tells; empty: none
	setup  string // how it was set up

	// dial makes a client of the world's API that has no token yet.
	dial func(*world) (doer, error)

	// login makes one that begins with the refresh token of a login. It may
	// keep what it needs in dir, which all processes share. Nil: it cannot.
	login func(w *world, refresh, dir string) (doer, error)
}

// A doer is all that the scenarios see of a peer. An http.Client is one, and
// most peers are the Transport of one.
type doer interface {
	Do(*http.Request) (*http.Response, error)
}

// peers are those of the table, in its order.
func peers() []peer {
	return []peer{
		ours, handwritten, xoauth2, cloudAuth, azcorePeer, retryable, github, kubernetes, oras,
	}
}

// bare is the base itself: what all others are compared with.
var bare = peer{name: "base", dial: func(w *world) (doer, error) {
	w.set(func(c *Conduct) { c.Open = true })
	return carrier{w.client()}, nil
}}

// A carrier is a client whose requests have credentials without further ado: to
// send them and to look at them costs as much as the peers'.
type carrier struct{ *http.Client }

func (c carrier) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+accessToken(0))
	return c.Client.Do(req)
}
