package transport_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A gated base holds requests for /slow, each attempt until something comes from the gate.
type gated struct {
	*api
	gate chan struct{}
}

func (g *gated) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != "/slow" {
		return g.api.RoundTrip(req)
	}
	<-g.gate
	return bodyAnswer(map[bool]int{true: 200, false: 401}[g.likes(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))], http.NoBody), nil
}

func slowly(t *testing.T, auth *transport.Auth) {
	go func() { getsStatus(t, auth, postBody(t, "https://api.example.com/slow", nil), 200) }()
	synctest.Wait()
}

func TestALateSuccessOfTheTokenBeforeDoesNotEndARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, second := new(issuer), false
		base := &gated{&api{likes: func(token string) bool { return second && token == "token-2" }}, make(chan struct{})}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: base}
		get(t, auth) // refused, and so is token-2
		slowly(t, auth)
		time.Sleep(2 * time.Second)
		get(t, auth) // refused, and so is token-3
		second = true
		base.gate <- struct{}{}
		synctest.Wait()
		get(t, auth)
		if got := tokens.issued.Load(); got != 3 {
			t.Errorf("%d token requests, want 3: token-3 is too young", got)
		}
	})
}

func TestALateRefusalOfTheTokenBeforeBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := new(issuer)
		base := &gated{&api{likes: tokens.good}, make(chan struct{})}
		auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Base: base}
		ok(t, auth)
		slowly(t, auth)
		tokens.revoke()
		ok(t, auth) // with token-2
		base.gate <- struct{}{}
		synctest.Wait() // the late refusal; its replay is held, too
		tokens.revoke()
		if err := ok(t, auth); err != nil {
			t.Errorf("got %v, want token-2 to be replaced at once", err)
		}
		tokens.dead.Store(1)
		base.gate <- struct{}{}
		synctest.Wait()
	})
}

func TestALateRefusalOfATokenThatWasAcceptedThereMeanwhileBeginsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, late := &servers{issuer: new(issuer)}, make(chan struct{})
		auth := &transport.Auth{Source: &tokensource.Cache{Source: s.issuer}, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Late") != "" && req.Header.Get("Authorization") == "Bearer token-2" {
				<-late
			}
			return s.RoundTrip(req)
		})}
		ask := func(path string) {
			t.Helper()
			if got := asks(t, auth, "https://api.example"+path); got != 200 {
				t.Errorf("%s: got status %d, want 200", path, got)
			}
		}
		ask("/")
		s.revoke()
		go func() {
			req := postBody(t, "https://api.example/", nil)
			req.Header.Set("Late", "second attempt")
			getsStatus(t, auth, req, 401)
		}()
		time.Sleep(time.Second)
		ask("/") // with token-2
		time.Sleep(2 * time.Second)
		s.revoke()
		ask("/other")
		close(late)
		time.Sleep(time.Second)
		ask("/")
		s.revoke()
		ask("/")
	})
}

// A late refusal of the token before tells nothing of the one in use, though a Source without Peek is asked for it.
func TestALateRefusalMakesTheTokenInUseNoYounger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{issuer: new(issuer)}
		cache := &tokensource.Cache{Source: s.issuer}
		gate := make(chan struct{})
		auth := &transport.Auth{Source: tokensource.Func(cache.Token), Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/slow" {
				<-gate
			}
			return s.RoundTrip(req)
		})}
		asks(t, auth, "https://api.example/")
		late := make(chan int)
		go func() { late <- asks(t, auth, "https://api.example/slow") }()
		synctest.Wait()
		s.revoke()
		asks(t, auth, "https://api.example/")
		asks(t, auth, "https://bad.example/")
		time.Sleep(time.Minute)
		close(gate)
		if got := <-late; got != 200 {
			t.Errorf("the late request got status %d, want 200 with the token in use", got)
		}
		s.revoke()
		if got := asks(t, auth, "https://api.example/other"); got != 200 {
			t.Errorf("got status %d after a revocation, want a refresh and 200: the token was a minute old", got)
		}
	})
}
