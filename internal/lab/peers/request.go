package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// get sends a GET request and reads the answer. It returns the status, 0 for an error.
func get(ctx context.Context, d doer, url string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	resp, err := d.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// start makes a client that has a token.
func (p peer) start(ctx context.Context, w *world) (doer, error) {
	d, err := p.dial(w)
	if err == nil {
		err = warm(ctx, d, w.Plain+"/api")
	}
	return d, err
}

// warm sees to it that a client has a token.
func warm(ctx context.Context, d doer, url string) error {
	if status := get(ctx, d, url); status != http.StatusOK {
		return fmt.Errorf("the first request was answered with %d", status)
	}
	return nil
}
