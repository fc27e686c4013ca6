package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// check drives the user's own servers.
func check(ctx context.Context, o *options, stderr io.Writer) (summary, error) {
	base := newTransport(o.clients)
	defer base.CloseIdleConnections()
	r := newRecord()
	cache := &tokensource.Cache{Source: o.source(counter{base, r}), OnRefresh: r.refreshed}
	defer cache.Forget(context.WithoutCancel(ctx)) // ends a refresh that is under way
	// Better one clear error than as many as there are requests.
	if _, err := cache.Token(ctx, nil); err != nil {
		return summary{}, fmt.Errorf("no token came from -token-url%s: %w", suspect(err), err)
	}
	var begun atomic.Int64
	d := newDriver(r, cache, base, o)
	d.url = o.api
	d.more = func() bool { return begun.Add(1) <= int64(o.requests) }
	d.pause = func() time.Duration { return o.pause }

	done := show(stderr, r, func() float64 { return float64(min(begun.Load(), int64(o.requests))) / float64(o.requests) })
	d.drive(ctx)
	done()
	if o.refreshToken != "" {
		fmt.Fprintln(stderr, "REFRESH_TOKEN was exchanged: if the server rotates refresh tokens, it is spent now")
	}
	s := r.close()
	s.what, s.where, s.clients = "requests", host(o.api), o.clients
	return s, nil
}

// source is the grant that the environment's secrets allow.
func (o *options) source(base http.RoundTripper) tokensource.Source {
	endpoint := tokensource.Endpoint{
		URL:              o.tokenURL,
		ClientID:         o.clientID,
		ClientSecret:     o.clientSecret,
		ClientSecretPost: o.secretPost,
		Params:           o.params,
		Client:           &http.Client{Transport: base},
		AllowHTTP:        o.allowHTTP,
	}
	if o.refreshToken != "" {
		return &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: o.refreshToken}
	}
	return &tokensource.ClientCredentials{Endpoint: endpoint}
}

// suspect names what is likely to be wrong.
func suspect(err error) string {
	refusal, _ := errors.AsType[*tokensource.EndpointError](err)
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		return " (is REFRESH_TOKEN spent or expired?)"
	case refusal == nil:
		return ""
	case refusal.Code == "invalid_client" || refusal.StatusCode == http.StatusUnauthorized:
		return " (check -client-id and CLIENT_SECRET, or try -secret-post)"
	case refusal.Code == "invalid_scope" || refusal.Code == "invalid_request" || refusal.Code == "invalid_target":
		return " (does it need a -param?)"
	case refusal.StatusCode == http.StatusNotFound || refusal.StatusCode == http.StatusMethodNotAllowed:
		return " (is that its token endpoint?)"
	}
	return ""
}

// host is as much of a URL as may be shown: the rest may hold secrets.
func host(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Host
}
