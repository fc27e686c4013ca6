package transport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// loginAPI calls a home-made API: path is a login or a refresh.
func loginAPI(ctx context.Context, url string, question any) (*tokensource.Token, error) {
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusForbidden {
		return nil, tokensource.ErrReauthenticate
	}
	var answer struct{ AccessToken, RefreshToken string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	return &tokensource.Token{AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken}, nil
}

func login(t *testing.T, srv *tokentest.Server) *tokensource.Token {
	t.Helper()
	tok, err := loginAPI(t.Context(), srv.LoginURL(), map[string]string{"username": srv.Username, "password": srv.Password})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// upload posts a body that cannot be read twice, and checks that it came whole.
func upload(client *http.Client, url string) error {
	resp, err := client.Post(url, "text/plain", io.LimitReader(strings.NewReader(strings.Repeat("x", 3000)), 3000))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ Length int }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Length != 3000 {
		return fmt.Errorf("status %d, %d bytes arrived, error %v", resp.StatusCode, answer.Length, err)
	}
	return nil
}

func TestTheFrontEndPatternFromLoginToLogout(t *testing.T) {
	srv := tokentest.NewServer(t)
	cache := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		return loginAPI(ctx, srv.RefreshURL(), map[string]string{"refreshToken": old.RefreshToken})
	})}
	client := &http.Client{Transport: &transport.Auth{Source: cache, Refused: transport.UnauthorizedOrForbidden}}
	defer client.CloseIdleConnections()
	post := func() error { return upload(client, srv.LegacyURL()) }

	cache.Set(t.Context(), login(t, srv))
	if err := post(); err != nil {
		t.Fatalf("after login: %v", err)
	}
	srv.RevokeAccess()
	for i, err := range all(50, post) {
		if err != nil {
			t.Errorf("request %d after expiry: %v", i, err)
		}
	}
	if got := srv.Counts().Rotations; got != 1 {
		t.Errorf("%d refreshes, want 1", got)
	}

	srv.RevokeAll()
	requests := srv.Counts().TokenRequests
	for range 3 {
		for _, err := range all(50, post) {
			if !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("after the refresh token expired: got %v, want ErrReauthenticate", err)
			}
		}
	}
	if got := srv.Counts().TokenRequests - requests; got != 1 {
		t.Errorf("%d token requests after the refresh token expired, want 1", got)
	}

	cache.Set(t.Context(), login(t, srv))
	if err := post(); err != nil {
		t.Errorf("after the second login: %v", err)
	}
}

func all(n int, f func() error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errs
}

func TestAThousandRequestsAfterARevocationCauseOneTokenRequest(t *testing.T) {
	srv := tokentest.NewServer(t)
	base := &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64}
	client := &http.Client{Transport: &transport.Auth{Base: base, Source: &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		RefreshToken: srv.RefreshToken(),
	}}}}
	defer client.CloseIdleConnections()
	if err := upload(client, srv.APIURL()); err != nil {
		t.Fatal(err)
	}
	before := srv.Counts()
	srv.RevokeAccess()
	for _, err := range all(1000, func() error { return upload(client, srv.APIURL()) }) {
		if err != nil {
			t.Errorf("got %v", err)
		}
	}
	after := srv.Counts()
	if got := after.TokenRequests - before.TokenRequests; got != 1 {
		t.Errorf("%d token requests, want 1", got)
	}
	if got := after.APIRequests - before.APIRequests; got > 2000 {
		t.Errorf("1000 requests were sent %d times, want each at most twice", got)
	}
}

// An api answers in a bubble: it accepts the tokens that it likes.
type api struct {
	likes func(token string) bool
	delay time.Duration
	sent  atomic.Int32
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	a.sent.Add(1)
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	likes := a.likes(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
	select {
	case <-time.After(a.delay):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	rec := httptest.NewRecorder()
	if !likes {
		rec.WriteHeader(http.StatusUnauthorized)
		rec.WriteString("the api's own words")
	}
	return rec.Result(), nil
}

// An issuer gives token-1, token-2 and so on; only the newest is good.
type issuer struct {
	issued atomic.Int32
	dead   atomic.Int32 // tokens up to this one
}

func (i *issuer) Token(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &tokensource.Token{AccessToken: fmt.Sprintf("token-%d", i.issued.Add(1)), Expiry: time.Now().Add(time.Hour)}, nil
}

func (i *issuer) good(token string) bool {
	var n int32
	fmt.Sscanf(token, "token-%d", &n)
	return n > i.dead.Load()
}

func (i *issuer) revoke() { i.dead.Store(i.issued.Load()) }

// get sends a request and returns the status and body.
func get(t *testing.T, rt http.RoundTripper) (int, string, error) {
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/", nil)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// ok is get for those who want a 200.
func ok(t *testing.T, rt http.RoundTripper) error {
	status, _, err := get(t, rt)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

func TestTenThousandRequestsAtTheMomentOfExpiryCauseOneTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		server := &api{likes: tokens.good}
		auth := &transport.Auth{Base: server, Source: &tokensource.Cache{Source: tokens}}
		if err := ok(t, auth); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		tokens.revoke()
		n := 10000
		if raceEnabled { // the detector dies of that many goroutines
			n = 1000
		}
		for _, err := range all(n, func() error { return ok(t, auth) }) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := tokens.issued.Load() - 1; got != 1 {
			t.Errorf("%d token requests, want 1", got)
		}
	})
}

func TestRequestsRefusedWithTheOldTokenAreReplayedWithTheCurrentOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		cache := &tokensource.Cache{Source: tokens}
		var slow atomic.Int32
		server := &api{likes: tokens.good}
		late := &api{likes: tokens.good, delay: time.Minute}
		quick, slowly := &transport.Auth{Base: server, Source: cache}, &transport.Auth{Source: cache}
		slowly.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(time.Duration(slow.Add(1)) * time.Millisecond)
			return late.RoundTrip(req)
		})
		ok(t, quick)
		tokens.revoke()
		done := make(chan []error)
		go func() { done <- all(50, func() error { return ok(t, slowly) }) }()
		time.Sleep(30 * time.Second)
		if err := ok(t, quick); err != nil {
			t.Fatal(err)
		}
		for _, err := range <-done {
			if err != nil {
				t.Error(err)
			}
		}
		if got := tokens.issued.Load(); got != 2 {
			t.Errorf("%d token requests, want 2: the first and one refresh", got)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestARefusalWhoseRefreshFailsTellsBoth(t *testing.T) {
	cause := &tokensource.EndpointError{StatusCode: 503}
	source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old != nil {
			return nil, cause
		}
		return &tokensource.Token{AccessToken: "a"}, nil
	})
	_, _, err := get(t, &transport.Auth{Source: source, Base: &api{likes: func(string) bool { return false }}})
	var e *transport.Error
	if !errors.As(err, &e) || e.StatusCode != 401 || !errors.Is(err, cause) {
		t.Errorf("got %v, want an Error with status 401 and the cause", err)
	}
}

func TestARefusedRequestLeavesTheRefreshAtItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		cache := &tokensource.Cache{Source: tokens}
		auth := &transport.Auth{Source: cache, Base: &api{likes: tokens.good}}
		ok(t, auth)
		tokens.revoke()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.example.com/", nil)
		_, err := auth.RoundTrip(req)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 20*time.Millisecond {
			t.Errorf("got %v after %v, want DeadlineExceeded after 20ms", err, time.Since(start))
		}
		if err := ok(t, auth); err != nil || tokens.issued.Load() != 2 {
			t.Errorf("the next request: %v after %d token requests, want none and 2", err, tokens.issued.Load())
		}
	})
}

func TestAReplyLostAfterRotationCostsOneMoreExchangeAndThenReauthenticate(t *testing.T) {
	srv := tokentest.NewServer(t)
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		RefreshToken: srv.RefreshToken(),
	}}
	srv.Fail(tokentest.Failure{LoseReply: true})
	var last error
	for !errors.Is(last, tokensource.ErrReauthenticate) && t.Context().Err() == nil {
		_, last = cache.Token(t.Context(), nil) // until the Source is asked again
		runtime.Gosched()
	}
	for range 100 {
		_, last = cache.Token(t.Context(), nil)
	}
	if !errors.Is(last, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want ErrReauthenticate", last)
	}
	if got := srv.Counts(); got.TokenRequests != 2 || got.Reuses != 1 {
		t.Errorf("%d token requests and %d reuses, want 2 and 1", got.TokenRequests, got.Reuses)
	}
}

func TestForgetDuringTheFirstExchangeEndsIt(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.Fail(tokentest.Failure{Hang: true})
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		RefreshToken: srv.RefreshToken(),
	}}
	errs := make(chan error)
	go func() { _, err := cache.Token(t.Context(), nil); errs <- err }()
	for srv.Counts().TokenRequests == 0 {
		runtime.Gosched()
	}
	cache.Forget(t.Context())
	if err := <-errs; !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("the waiter got %v, want ErrReauthenticate", err)
	}
	for range 10 {
		cache.Token(t.Context(), nil)
	}
	if got := srv.Counts().TokenRequests; got != 1 {
		t.Errorf("%d token requests, want 1", got)
	}
}

// A peeking Source has another token already.
type peeking struct {
	tokensource.Source
	other *tokensource.Token
}

func (p peeking) Peek(context.Context, *tokensource.Token) *tokensource.Token { return p.other }

func TestARefusalWhoseOtherTokenNoHeaderMayCarryTellsBoth(t *testing.T) {
	source := peeking{tokensource.Static(&tokensource.Token{AccessToken: "old"}), &tokensource.Token{AccessToken: "a\nb"}}
	auth := &transport.Auth{Source: source, Base: &api{likes: func(string) bool { return false }}, MaxBody: -1}
	_, err := auth.RoundTrip(postBody(t, "https://api.example", nil))
	if e, ok := errors.AsType[*transport.Error](err); !ok || e.StatusCode != 401 || e.Err == nil {
		t.Errorf("got %v, want an Error with status 401 and the cause", err)
	}
	once := io.LimitReader(strings.NewReader("body"), 4) // cannot be sent again
	getsStatus(t, auth, postBody(t, "https://api.example", once), 401)
}

// A Source of other hands may be wrong about what is another token.
func TestARequestIsNotSentAgainWithTheTokenThatWasRefused(t *testing.T) {
	token := &tokensource.Token{AccessToken: "old"}
	server := &api{likes: refuseAll}
	auth := &transport.Auth{Source: peeking{tokensource.Static(token), &tokensource.Token{AccessToken: "old"}}, Base: server}
	if status, _, err := get(t, auth); status != 401 || err != nil || server.sent.Load() != 1 {
		t.Errorf("got %d and %v after %d attempts, want the 401 after one", status, err, server.sent.Load())
	}
}
