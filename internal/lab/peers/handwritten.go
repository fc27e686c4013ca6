package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

var handwritten = peer{
	name: "by hand",
	setup: "eighty lines as they are found in many programs: a mutex, `io.ReadAll`, one more attempt after a 401 with the token dropped. " +
		"Rarer ones compare the refused token with the current one first; then further refusals cost no token requests.",
	dial: func(w *world) (doer, error) { return handwrittenOver(w, ""), nil },
	login: func(w *world, refresh, _ string) (doer, error) {
		return handwrittenOver(w, refresh), nil
	},
}

func handwrittenOver(w *world, refresh string) *http.Client {
	return &http.Client{Transport: &authTransport{
		base: w.base, tokenURL: w.Auth + "/token", refresh: refresh,
	}}
}

// An authTransport is a transport as people write it.
type authTransport struct {
	base     http.RoundTripper
	tokenURL string

	mu      sync.Mutex
	token   string
	expiry  time.Time
	refresh string
}

func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	resp, err := t.send(req, body)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	t.mu.Lock()
	t.token = ""
	t.mu.Unlock()
	return t.send(req, body)
}

func (t *authTransport) send(req *http.Request, body []byte) (*http.Response, error) {
	token, err := t.current(req.Context())
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	if req.Body != nil {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	out.Header.Set("Authorization", "Bearer "+token)
	return t.base.RoundTrip(out)
}

func (t *authTransport) current(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && time.Now().Before(t.expiry) {
		return t.token, nil
	}
	err := t.fetch(ctx)
	return t.token, err
}

// fetch obtains a token; t.mu is held.
func (t *authTransport) fetch(ctx context.Context) error {
	form := url.Values{"grant_type": {"client_credentials"}}
	if t.refresh != "" {
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {t.refresh}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(clientID, clientSecret)
	resp, err := (&http.Client{Transport: t.base}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("token endpoint: %s", resp.Status)
	}
	var reply struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int    `json:"expires_in"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		return err
	}
	t.token, t.refresh = reply.AccessToken, reply.RefreshToken
	t.expiry = time.Now().Add(time.Duration(reply.ExpiresIn) * time.Second)
	return nil
}
