package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// What moving.md has as "after". What it has as "before" is in foreign, but for
// the hand-written transport.

func Example_clientCredentials() {
	srv := tokentest.Start()
	defer srv.Close()
	clientID, clientSecret, tokenURL := srv.ClientID, srv.ClientSecret, srv.TokenURL()

	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{
				URL:          tokenURL,
				ClientID:     clientID,
				ClientSecret: clientSecret,
			},
			Scopes: []string{"reports"},
		}},
	}}

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

func Example_storedToken() {
	srv := tokentest.Start()
	defer srv.Close()
	ctx := context.Background()
	path, remove := pages.TokenFile(srv)
	defer remove()
	var store tokensource.Store = new(storetest.Memory) // stands for filestore or redisstore
	clientID, tokenURL := srv.ClientID, srv.TokenURL()

	stored := &tokensource.Stored{
		Source: &tokensource.RefreshToken{
			Endpoint: tokensource.Endpoint{URL: tokenURL, ClientID: clientID},
		},
		Store: store,
		Key:   "reports",
	}
	cache := &tokensource.Cache{Source: stored}
	if err := takeOver(ctx, cache, path); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &transport.Auth{Source: cache}}

	pages.Status(client.Get(srv.APIURL()))
	_, err := os.Stat(path)
	fmt.Println("the old file is gone:", errors.Is(err, fs.ErrNotExist))
	// Output:
	// 200 OK
	// the old file is gone: true
}

// takeOver hands the token that x/oauth2 saved to the Cache, once.
func takeOver(ctx context.Context, cache *tokensource.Cache, path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was taken over before
	}
	if err != nil {
		return err
	}
	token, err := tokensource.Unmarshal(data)
	if err != nil {
		return err
	}
	if err := cache.Set(ctx, token); err != nil {
		return err
	}
	return os.Remove(path) // its refresh token is spent with the next refresh
}

func Example_ownSource() {
	srv := tokentest.Start()
	defer srv.Close()
	base := http.DefaultTransport
	login := loginTo(srv)

	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: tokensource.Func(
			func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
				text, expiry, err := login(ctx)
				if err != nil {
					return nil, err
				}
				return &tokensource.Token{AccessToken: text, Expiry: expiry}, nil
			},
		)},
		Base: base,
	}}

	pages.Status(client.Get(srv.APIURL()))
	srv.RevokeAccess()
	pages.Status(client.Get(srv.APIURL()))
	// Output:
	// 200 OK
	// 200 OK
}

func Example_httpClient() {
	srv := tokentest.Start()
	defer srv.Close()
	grant := &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}
	pool := http.DefaultTransport.(*http.Transport).Clone()

	grant.Endpoint.Client = &http.Client{Transport: pool} // for the token endpoint
	client := &http.Client{                               // for the API
		Transport: &transport.Auth{
			Source: &tokensource.Cache{Source: grant, Timeout: 10 * time.Second},
			Base:   pool,
		},
		Timeout: 5 * time.Second,
	}

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

// loginTo is a login API of your own.
func loginTo(srv *tokentest.Server) func(context.Context) (string, time.Time, error) {
	grant := &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}
	return func(ctx context.Context) (string, time.Time, error) {
		t, err := grant.Token(ctx, nil)
		if err != nil {
			return "", time.Time{}, err
		}
		return t.AccessToken, t.Expiry, nil
	}
}

// A tokenTransport is what most programs have before they look for a library.
type tokenTransport struct {
	base  http.RoundTripper
	login func(context.Context) (string, error)

	mu    sync.Mutex
	token string
}

func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	resp, err := t.send(req, body, false)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	resp.Body.Close()
	return t.send(req, body, true)
}

func (t *tokenTransport) send(req *http.Request, body []byte, renew bool) (*http.Response, error) {
	token, err := t.current(req.Context(), renew)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.Header.Set("Authorization", "Bearer "+token)
	return t.base.RoundTrip(out)
}

func (t *tokenTransport) current(ctx context.Context, renew bool) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == "" || renew {
		token, err := t.login(ctx)
		if err != nil {
			return "", err
		}
		t.token = token
	}
	return t.token, nil
}

// moved does the same with the library.
func moved(base http.RoundTripper, login func(context.Context) (string, error)) http.RoundTripper {
	return &transport.Auth{
		Source: &tokensource.Cache{Source: tokensource.Func(
			func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
				text, err := login(ctx)
				if err != nil {
					return nil, err
				}
				return &tokensource.Token{AccessToken: text}, nil
			},
		)},
		Base: base,
	}
}

// A gate is an API that takes "token-2". Requests with another token are refused
// together, when n of them have come.
type gate struct {
	come sync.WaitGroup
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	if req.Header.Get("Authorization") == "Bearer token-1" {
		g.come.Done()
		g.come.Wait()
		rec.WriteHeader(http.StatusUnauthorized)
	}
	return rec.Result(), nil
}

func TestHowOftenAHandWrittenTransportLogsIn(t *testing.T) {
	const requests = 50
	for name, c := range map[string]struct {
		make func(http.RoundTripper, func(context.Context) (string, error)) http.RoundTripper
		want int32 // the first, and those that the refusals caused
	}{
		"hand-written": {func(base http.RoundTripper, login func(context.Context) (string, error)) http.RoundTripper {
			return &tokenTransport{base: base, login: login}
		}, 1 + requests},
		"ours": {moved, 1 + 1},
	} {
		var logins atomic.Int32
		api := new(gate)
		api.come.Add(requests)
		rt := c.make(api, func(context.Context) (string, error) {
			return fmt.Sprintf("token-%d", logins.Add(1)), nil
		})
		var wg sync.WaitGroup
		for range requests {
			wg.Go(func() {
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example.com/", strings.NewReader("x"))
				if resp, err := rt.RoundTrip(req); err != nil || resp.StatusCode != 200 {
					t.Errorf("%s: got %v, %v", name, resp, err)
				}
			})
		}
		wg.Wait()
		if got := logins.Load(); got != c.want {
			t.Errorf("%s: %d logins, want %d", name, got, c.want)
		}
	}
}

func TestHowMuchAHandWrittenTransportReadsAhead(t *testing.T) {
	login := func(context.Context) (string, error) { return "at", nil }
	for name, c := range map[string]struct {
		make func(http.RoundTripper) http.RoundTripper
		left int // of the body, when the base begins to send
	}{
		"hand-written": {func(base http.RoundTripper) http.RoundTripper { return &tokenTransport{base: base, login: login} }, 0},
		"ours":         {func(base http.RoundTripper) http.RoundTripper { return moved(base, login) }, 1 << 20},
	} {
		body := strings.NewReader(strings.Repeat("x", 1<<20))
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			if body.Len() != c.left {
				t.Errorf("%s: %d bytes are left when sending begins, want %d", name, body.Len(), c.left)
			}
			return httptest.NewRecorder().Result(), nil
		})
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example.com/", io.NopCloser(body))
		if _, err := c.make(base).RoundTrip(req); err != nil {
			t.Error(err)
		}
	}
}

func TestWhereARedirectTakesTheTokenOfAHandWrittenTransport(t *testing.T) {
	login := func(context.Context) (string, error) { return "at", nil }
	for want, rt := range map[string]http.RoundTripper{
		"Bearer at": &tokenTransport{base: http.DefaultTransport, login: login},
		"":          moved(nil, login),
	} {
		if seen := pages.Redirected(t, &http.Client{Transport: rt}); seen != want {
			t.Errorf("%T: the other origin got %q, want %q", rt, seen, want)
		}
	}
}
