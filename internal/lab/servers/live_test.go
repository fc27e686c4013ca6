package servers_test

import (
	"context"
	"crypto"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// What a run has.
const (
	callers  = 20
	requests = 200
	expiries = 5
)

// live lets callers use the API through expiries, revocations and the end of the
// login. Key is nil, or what tokens are bound to.
func (at *site) live(t *testing.T, key crypto.Signer) {
	sent := &sent{count: map[string]int{}}
	source := at.source
	source.Endpoint.Client = &http.Client{Transport: proving(key, sent)}
	cache := &tokensource.Cache{Source: &source}
	if err := cache.Set(t.Context(), &tokensource.Token{RefreshToken: at.login(t).RefreshToken}); err != nil {
		t.Fatal(err)
	}
	api := new(api)
	client := &http.Client{Transport: &transport.Auth{Source: cache, Refused: at.refused, Base: proving(key, api)}}

	began := time.Now()
	failed := at.use(t, client, cache)
	tokens := sent.total()
	t.Logf("%d requests by %d callers in %v: %d failures, %d token requests, %d refusals", requests, callers,
		time.Since(began).Round(100*time.Millisecond), failed, tokens, api.refused.Load())
	if failed != 0 {
		t.Errorf("%d requests failed", failed)
	}
	if tokens < expiries+2 {
		t.Errorf("there were %d token requests, want at least %d", tokens, expiries+2)
	}

	login, err := cache.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := sent.of(login.RefreshToken) // while it was good: not every server rotates
	at.revoke(login.RefreshToken)
	at.spoil(login.AccessToken)
	took := ended(t, client, at.api)
	dead := sent.of(login.RefreshToken) - before
	t.Logf("after the end of the login all callers had ErrReauthenticate in %v, after %d token requests with the dead token",
		took.Round(time.Millisecond), dead)
	if took > 3*time.Second || dead > 2 {
		t.Error("want at most 3 s and 2 requests")
	}

	if err := cache.Set(t.Context(), &tokensource.Token{RefreshToken: at.login(t).RefreshToken}); err != nil {
		t.Fatal(err)
	}
	for range callers {
		if err := get(client, at.api); err != nil {
			t.Errorf("after Set: %v", err)
		}
	}
}

// use sends all requests, and returns how many failed.
func (at *site) use(t *testing.T, client *http.Client, cache *tokensource.Cache) int64 {
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range requests / callers {
				if err := get(client, at.api); err != nil {
					failed.Add(1)
					t.Log(err)
				}
				if n := done.Add(1); n == requests/3 || n == requests*2/3 {
					token, err := cache.Token(context.Background(), nil)
					if err != nil {
						t.Error(err)
						return
					}
					at.spoil(token.AccessToken)
				}
				time.Sleep(1500 * time.Millisecond) // real servers have real clocks
			}
		})
	}
	wg.Wait()
	return failed.Load()
}

// ended returns how long it takes until every caller has ErrReauthenticate.
func ended(t *testing.T, client *http.Client, url string) time.Duration {
	began := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for end := began.Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if errors.Is(get(client, url), tokensource.ErrReauthenticate) {
					return
				}
			}
			t.Error("a caller never got ErrReauthenticate")
		})
	}
	wg.Wait()
	took := time.Since(began)
	for range 3 * callers {
		if err := get(client, url); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("later: got %v", err)
		}
	}
	return took
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// proving sends proofs of the key, if there is one.
func proving(key crypto.Signer, base http.RoundTripper) http.RoundTripper {
	if key == nil {
		return base
	}
	return &transport.DPoP{Key: key, Base: base}
}

// An api counts the refusals of the server's resource.
type api struct{ refused atomic.Int64 }

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		a.refused.Add(1)
	}
	return resp, err
}

// sent counts token requests by their refresh tokens.
type sent struct {
	mu    sync.Mutex // guards count
	count map[string]int
}

func (s *sent) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPost {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		form, err := url.ParseQuery(string(text))
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.count[form.Get("refresh_token")]++
		s.mu.Unlock()
	}
	return http.DefaultTransport.RoundTrip(req)
}

func (s *sent) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.count {
		n += c
	}
	return n
}

// of counts the requests that carried a refresh token.
func (s *sent) of(refresh string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[refresh]
}
