package transport_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestAnAPIThatRefusesEverythingCausesFewRefreshesAndIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: &api{likes: func(string) bool { return false }}}
		for range 1000 {
			status, body, err := get(t, auth)
			if err != nil || status != 401 || body != "the api's own words" {
				t.Fatalf("got %d %q, error %v; want the API's own 401", status, body, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := tokens.issued.Load(); got > 6 {
			t.Errorf("%d token requests in 10s, want at most 6", got)
		}
	})
}

// A row of refusals goes on with errors between them: they don't show that a
// token is good.
func TestOnlyAnAnswerWithoutAnErrorProvesAToken(t *testing.T) {
	for _, status := range []int{400, 401, 403, 407, 429, 503} {
		synctest.Test(t, func(t *testing.T) {
			tokens := new(issuer)
			answers := 0
			auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}}
			auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
				if answers++; answers%2 == 1 {
					return bodyAnswer(401, strings.NewReader("")), nil
				}
				resp := bodyAnswer(status, strings.NewReader(""))
				resp.Header.Set("WWW-Authenticate", `Bearer error="insufficient_user_authentication"`)
				return resp, nil
			})
			for range 100 {
				get(t, auth)
				time.Sleep(10 * time.Millisecond)
			}
			if got := tokens.issued.Load(); got > 3 {
				t.Errorf("%d: %d token requests in a second, want at most 3", status, got)
			}
		})
	}
}

// Between revocations that are days apart, the API answers nothing but errors.
func TestARowOfRefusalsEndsAfterFourMinutesWithoutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: &api{likes: func(string) bool { return false }}}
		refreshes := func(after time.Duration) bool {
			t.Helper()
			time.Sleep(after)
			before := tokens.issued.Load()
			get(t, auth)
			return tokens.issued.Load() > before
		}
		get(t, auth)
		for range 5 { // of a row the next would last for 4, 8, 16 and 32 s
			if refreshes(1900 * time.Millisecond) {
				t.Error("a token was replaced on probation")
			}
			if !refreshes(5*time.Minute) || !refreshes(2*time.Second) {
				t.Error("the row goes on")
			}
			time.Sleep(5 * time.Minute)
			get(t, auth)
		}
	})
}

func TestAnAPIThatRefusesEverythingDoesNotStarveAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		bad := &api{likes: func(string) bool { return false }}
		good := &api{likes: tokens.good}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}}
		auth.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Host == "bad.example.com" {
				return bad.RoundTrip(req)
			}
			return good.RoundTrip(req)
		})
		stop := time.Now().Add(10 * time.Second)
		revoked := false
		for time.Now().Before(stop) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://bad.example.com/", nil)
			if resp, err := auth.RoundTrip(req); err != nil || resp.StatusCode != 401 {
				t.Fatalf("the bad API: %v", err)
			}
			if !revoked && time.Until(stop) < 5*time.Second {
				revoked = true
				tokens.revoke()
			}
			if err := ok(t, auth); err != nil {
				t.Fatalf("the good API: %v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := tokens.issued.Load(); got > 8 {
			t.Errorf("%d token requests, want at most 8", got)
		}
	})
}

func TestTwentyRevocationsCostTwentyTokenRequestsAndNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: &api{likes: tokens.good, delay: 3 * time.Millisecond}}
		ok(t, auth)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 37 * time.Microsecond)
				for ctx.Err() == nil {
					if err := ok(t, auth); err != nil {
						t.Errorf("got %v", err)
						return
					}
				}
			})
		}
		for range 20 {
			time.Sleep(300 * time.Millisecond)
			tokens.revoke()
		}
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if got := tokens.issued.Load() - 1; got != 20 {
			t.Errorf("%d token requests, want 20", got)
		}
	})
}

func TestProbationGrowsAlongTheChainUpToTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: &api{likes: func(string) bool { return false }}}
		var moments []time.Duration
		start, seen := time.Now(), int32(0)
		for time.Since(start) < 10*time.Minute {
			get(t, auth)
			if n := tokens.issued.Load(); n > seen {
				moments, seen = append(moments, time.Since(start).Truncate(2*time.Second)), n
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got, want := fmt.Sprint(moments), "[0s 2s 6s 14s 30s 1m2s 2m6s 4m6s 6m6s 8m6s]"; got != want {
			t.Errorf("refreshed at %s, want %s", got, want)
		}
	})
}
