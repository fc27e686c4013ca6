package transport_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

const hush = secrets.Hush

// hushSources end in a token, and in an error of a server that repeats the secrets.
func hushSources() []tokensource.Source {
	endpoint := tokensource.Endpoint{URL: "https://login.test", ClientSecret: hush, Client: &http.Client{Transport: hushBase(400)}}
	return []tokensource.Source{
		tokensource.Static(&tokensource.Token{AccessToken: hush, RefreshToken: hush}),
		&tokensource.ClientCredentials{Endpoint: endpoint},
		&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: hush},
		&tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: hush})},
		&tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: hush}},
	}
}

// A hushBase answers with a status and all that it was sent.
type hushBase int

func (status hushBase) RoundTrip(req *http.Request) (*http.Response, error) {
	body := new(bytes.Buffer)
	if req.Body != nil {
		body.ReadFrom(req.Body)
		req.Body.Close()
	}
	said, _ := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": body.String() + fmt.Sprint(req.Header)})
	w := &http.Response{StatusCode: int(status), Header: http.Header{}, Body: http.NoBody, Request: req}
	if status == 400 {
		w.Body = readCloser{bytes.NewReader(said)}
	}
	return w, nil
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// A hushKey is a key that shows, if anything does.
type hushKey struct{ Secret string }

func (hushKey) Public() crypto.PublicKey { return nil }
func (hushKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}

// usedAuths have a token in their header, a guard that watches, a refusal behind them.
func usedAuths(t *testing.T) (all []*transport.Auth, failures []error) {
	rotating := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old == nil {
			return &tokensource.Token{AccessToken: hush}, nil
		}
		return &tokensource.Token{AccessToken: old.AccessToken + "x", RefreshToken: hush}, nil
	})
	for _, status := range []hushBase{200, 401} {
		for _, src := range append(hushSources(), rotating) {
			a := &transport.Auth{Source: src, Base: status}
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://api.test", nil)
			if _, err := a.RoundTrip(req); err != nil {
				failures = append(failures, err)
			}
			all = append(all, a)
		}
	}
	return all, failures
}

func secretsTable(t *testing.T) map[string][]any {
	table := map[string][]any{"Challenge": {transport.Challenge{Scheme: "Bearer"}}}
	dpop := &transport.DPoP{Key: hushKey{hush}, Base: hushBase(401)}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://api.test", nil)
	dpop.RoundTrip(req)
	table["DPoP"] = []any{dpop, []any{dpop}, map[string]any{"k": dpop}, struct{ D *transport.DPoP }{dpop}, &struct{ R http.RoundTripper }{dpop}, http.Client{Transport: dpop}}
	auths, failures := usedAuths(t)
	for _, a := range auths {
		table["Auth"] = append(table["Auth"], a, []*transport.Auth{a}, map[string]any{"k": a}, struct{ A *transport.Auth }{a}, &struct{ R http.RoundTripper }{a}, http.Client{Transport: a})
	}
	for _, err := range failures {
		e, ok := errors.AsType[*transport.Error](err)
		if !ok {
			t.Fatalf("got %v, want an Error", err)
		}
		table["Error"] = append(table["Error"], e, *e, []error{e}, []transport.Error{*e}, struct{ E error }{e}, struct{ E transport.Error }{*e}, fmt.Errorf("because: %w", e))
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			table["Error"] = append(table["Error"], cause)
		}
	}
	return table
}

func TestNoExportedTypeShowsASecret(t *testing.T) { secrets.CheckTypes(t, secretsTable) }

func TestWhatIsPrintedTellsWhatItIs(t *testing.T) {
	dpop := &transport.DPoP{Base: hushBase(200)}
	auth := &transport.Auth{Source: new(tokensource.Cache), Base: dpop}
	if got, want := fmt.Sprint(auth), "*tokensource.Cache over *transport.DPoP"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	text, err := dpop.MarshalText()
	if want := "DPoP over transport_test.hushBase"; fmt.Sprint(dpop) != want || string(text) != want || err != nil {
		t.Errorf("got %v, as text %s and %v, want %s", dpop, text, err, want)
	}
}

func TestNoEncodingWritesTheKey(t *testing.T) {
	key := ed25519.NewKeyFromSeed([]byte((hush + hush + hush + hush)[:ed25519.SeedSize]))
	gob.Register(key)
	dpop := &transport.DPoP{Key: key}
	for _, v := range []any{dpop, struct{ D *transport.DPoP }{dpop}, &struct{ D transport.DPoP }{transport.DPoP{Key: key}}, struct{ D transport.DPoP }{transport.DPoP{Key: key}}} {
		var b bytes.Buffer
		if err := gob.NewEncoder(&b).Encode(v); err == nil || secrets.Shows(b.String()) {
			t.Errorf("%T by gob: got %v and %.200q, want an error and no key", v, err, b.String())
		}
		j, _ := json.Marshal(v)
		x, _ := xml.Marshal(v)
		for _, text := range []string{string(j), string(x)} {
			if secrets.Shows(text) || bytes.Contains([]byte(text), []byte("aHVzaC1odXNo")) {
				t.Errorf("%T: the key shows: %.200s", v, text)
			}
		}
	}
}
