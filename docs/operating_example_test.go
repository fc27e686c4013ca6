package docs_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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

// observe returns an OnRefresh that counts the refreshes in expvar and logs them.
func observe(counts *expvar.Map) func(tokensource.Refresh) {
	return func(r tokensource.Refresh) {
		counts.Add(string(r.Cause), 1)
		counts.Add("waiters", int64(r.Waiters))
		counts.AddFloat("seconds", r.Duration.Seconds())
		level := slog.LevelInfo
		if r.Err != nil {
			counts.Add("failed: "+kind(r.Err), 1)
			level = slog.LevelWarn
		}
		slog.Log(context.Background(), level, "token refresh",
			"cause", r.Cause, "duration", r.Duration, "waiters", r.Waiters, "error", r.Err)
	}
}

// A counter counts the answers that pass through it, by their status.
type counter struct {
	http.RoundTripper
	statuses *expvar.Map
}

func (c *counter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(req)
	if err != nil {
		c.statuses.Add("failed", 1)
		return nil, err
	}
	c.statuses.Add(strconv.Itoa(resp.StatusCode), 1)
	return resp, nil
}

func Example_metrics() {
	srv := tokentest.Start()
	defer srv.Close()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	clientID, clientSecret, tokenURL := srv.ClientID, srv.ClientSecret, srv.TokenURL()

	refreshes, tokenRequests := new(expvar.Map), new(expvar.Map)
	attempts, answers := new(expvar.Map), new(expvar.Map)
	cache := &tokensource.Cache{
		Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			URL:          tokenURL,
			ClientID:     clientID,
			ClientSecret: clientSecret,
			Client:       &http.Client{Transport: &counter{http.DefaultTransport, tokenRequests}},
		}},
		OnRefresh: observe(refreshes),
	}
	auth := &transport.Auth{Source: cache, Base: &counter{http.DefaultTransport, attempts}}
	client := &http.Client{Transport: &counter{auth, answers}}

	pages.TwoRefreshes(srv, cache, client)
	fmt.Println("refreshes:", refreshes.Get("expired"), "expired,", refreshes.Get("refused"), "refused,", refreshes.Get("waiters"), "waiters")
	fmt.Println("token requests:", tokenRequests)
	fmt.Println("attempts:", attempts)
	fmt.Println("answers:", answers)
	// Output:
	// refreshes: 1 expired, 1 refused, 2 waiters
	// token requests: {"200": 2}
	// attempts: {"200": 2, "401": 1}
	// answers: {"200": 2}
}

// The limits in one place, for a service that sends up to 200 requests at a time,
// among them 40 uploads.
func Example_limits() {
	srv := tokentest.Start()
	defer srv.Close()
	grant := &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}
	apiURL := srv.URL

	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = 200 // after a refusal, all are sent again at once
	client := &http.Client{
		Transport: &transport.Auth{
			Source:    &tokensource.Cache{Source: grant},
			Base:      pool,
			Origins:   []string{apiURL},
			MaxBody:   8 << 20,
			MaxMemory: 40 * 8 << 20,
		},
		Timeout: time.Minute, // for both attempts, and the refresh between them
	}

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

// kind tells what an error is about: for a metric's label, or to route an alarm.
func kind(err error) string {
	refusal, refused := errors.AsType[*tokensource.EndpointError](err)
	_, store := errors.AsType[*tokensource.StoreError](err)
	switch {
	case errors.Is(err, tokensource.ErrReauthenticate):
		return "login" // the user must log in again
	case errors.Is(err, tokensource.ErrKeysFull):
		return "keys" // more tenants than MaxKeys
	case store:
		return "store"
	case refused && refusal.StatusCode < 500 && refusal.StatusCode != http.StatusTooManyRequests:
		return "refused" // the credential, or a setting
	case refused:
		return "endpoint" // it is overloaded or broken
	case errors.Is(err, context.Canceled):
		return "left" // the caller did
	case errors.Is(err, context.DeadlineExceeded):
		return "late" // the caller's deadline, or Cache.Timeout
	}
	return "other" // the network, or a field that is set wrong
}

// A client secret that is exchanged while the program runs: the file is read for
// each token request.
func Example_secretRollOver() {
	secret := "first"
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, got, _ := r.BasicAuth(); got != secret {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q}`, rand.Text())
	}))
	defer endpoint.Close()
	tokenURL := endpoint.URL
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "client-secret")
	os.WriteFile(path, []byte("first\n"), 0o600)

	source := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		secret, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		grant := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			URL:          tokenURL,
			ClientID:     "reports",
			ClientSecret: strings.TrimSpace(string(secret)),
		}}
		return grant.Token(ctx, old)
	})
	cache := &tokensource.Cache{Source: source}

	for _, s := range []string{"first", "second"} {
		secret = s
		os.WriteFile(path, []byte(s+"\n"), 0o600)
		token, err := cache.Token(context.Background(), nil)
		if err != nil {
			log.Fatal(err)
		}
		next, err := cache.Token(context.Background(), token)
		fmt.Println(next.AccessToken != token.AccessToken, err)
	}
	// Output:
	// true <nil>
	// true <nil>
}

// A signing key that is exchanged while the program runs.
func Example_keyRollOver() {
	srv := tokentest.Start()
	defer srv.Close()
	key := func() crypto.Signer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			log.Fatal(err)
		}
		srv.TrustKey(key.Public())
		return key
	}
	clientID, tokenURL := srv.ClientID, srv.TokenURL()

	var current atomic.Pointer[tokensource.SignedJWT] // stored anew when there is another key
	assertion := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		return current.Load().Token(ctx, old)
	})
	cache := &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: tokenURL, ClientID: clientID, ClientAssertion: assertion},
	}}

	for _, id := range []string{"2026-11", "2026-12"} {
		current.Store(&tokensource.SignedJWT{
			Key:      key(),
			KeyID:    id,
			Issuer:   clientID,
			Subject:  clientID,
			Audience: []string{tokenURL},
		})
		token, err := cache.Token(context.Background(), nil)
		if err != nil {
			log.Fatal(err)
		}
		_, err = cache.Token(context.Background(), token)
		fmt.Println(id, err)
	}
	// Output:
	// 2026-11 <nil>
	// 2026-12 <nil>
}

// A drainingStore lets a program end without losing a refresh token: Drain
// returns when no exchange is under way, and from then on none begins.
type drainingStore struct {
	tokensource.Store
	updates sync.RWMutex
}

func (d *drainingStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if !d.updates.TryRLock() {
		return tokensource.ErrLocked
	}
	defer d.updates.RUnlock()
	return d.Store.Update(ctx, key, fn)
}

func (d *drainingStore) Drain() { d.updates.Lock() }

func TestADrainedProgramHasSavedItsRefreshToken(t *testing.T) {
	begun, answer := make(chan struct{}), make(chan struct{})
	memory := new(storetest.Memory)
	store := &drainingStore{Store: memory}
	cache := &tokensource.Cache{Source: &tokensource.Stored{
		Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			close(begun)
			<-answer
			return &tokensource.Token{AccessToken: "next", RefreshToken: "only one"}, nil
		}),
		Store: store,
		Key:   "reports",
	}}
	ctx, leave := context.WithCancel(t.Context())
	go cache.Token(ctx, nil)
	<-begun
	leave() // nobody waits for the exchange any more
	var answered atomic.Bool
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		store.Drain()
		if value, err := memory.Load(t.Context(), "reports"); value == nil || err != nil || !answered.Load() {
			t.Errorf("drained with %d bytes saved, %v, want the token", len(value), err)
		}
	}()
	for range 1000 {
		runtime.Gosched() // time for a Drain that does not wait
	}
	answered.Store(true)
	close(answer)
	<-drained
	if err := store.Update(t.Context(), "reports", nil); !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("afterwards: got %v, want ErrLocked", err)
	}
}

// logout forgets the token here and ends it at the server (RFC 7009). The secret is
// empty for a public client.
func logout(ctx context.Context, cache *tokensource.Cache, revocationURL, clientID, clientSecret string) error {
	token, err := cache.Token(ctx, nil)
	if err := cache.Forget(ctx); err != nil {
		return err
	}
	if err != nil {
		return nil // there is none, or none that could be got
	}
	form := url.Values{"token": {token.RefreshToken}, "token_type_hint": {"refresh_token"}, "client_id": {clientID}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, revocationURL, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if clientSecret != "" {
		req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(clientSecret))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the revocation endpoint answered %s", resp.Status)
	}
	return nil
}

func Example_logout() {
	srv := tokentest.Start()
	defer srv.Close()
	revocation := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, _ := r.BasicAuth()
		known := name == url.QueryEscape(srv.ClientID) && secret == url.QueryEscape(srv.ClientSecret)
		fmt.Println("revoked:", known && r.PostFormValue("token") != "")
		srv.RevokeAll()
	}))
	defer revocation.Close()
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		RefreshToken: srv.RefreshToken(),
	}}
	client := &http.Client{Transport: &transport.Auth{Source: cache}}
	pages.Status(client.Get(srv.APIURL()))

	err := logout(context.Background(), cache, revocation.URL, srv.ClientID, srv.ClientSecret)
	fmt.Println(err)
	_, err = client.Get(srv.APIURL())
	fmt.Println(errors.Is(err, tokensource.ErrReauthenticate))
	// Output:
	// 200 OK
	// revoked: true
	// <nil>
	// true
}
