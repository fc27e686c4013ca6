package interop_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
)

// loggedIn returns a Cache of a public client's token, after a login.
func (s *server) loggedIn(t *testing.T) (*tokensource.Cache, *tokensource.Token) {
	t.Helper()
	e := s.public()
	first := s.login(t, e)
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: e, RefreshToken: first.RefreshToken}}
	if err := cache.Set(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	return cache, first
}

// endCurrent ends the access token that the Cache has.
func (s *server) endCurrent(t *testing.T, cache *tokensource.Cache) {
	t.Helper()
	token, err := cache.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.end(token.AccessToken)
}

// reuse sends a spent refresh token, as a thief would.
func (s *server) reuse(t *testing.T, spent string) {
	t.Helper()
	_, err := (&tokensource.RefreshToken{Endpoint: s.public(), RefreshToken: spent}).Token(t.Context(), nil)
	refused, ok := errors.AsType[*tokensource.EndpointError](err)
	if !ok || !strings.Contains(refused.Description, "already used") {
		t.Fatalf("reuse: got error %v, want that the refresh token was already used", err)
	}
}

func TestThereAreAsManyExchangesAsRotationsWithManyCallers(t *testing.T) {
	const rounds, callers = 10, 30
	s := newServer(t, fosite.Config{})
	cache, _ := s.loggedIn(t)
	client := s.client(cache)
	for range rounds {
		s.endCurrent(t, cache)
		s.callMany(t, client, callers, 0)
	}
	got := s.saw()
	if got.Requests != rounds || got.Issued != rounds || got.Reused != 0 || got.Refused < rounds {
		t.Errorf("got %+v, want %d exchanges, as many rotations, none with a spent refresh token", got, rounds)
	}
}

func TestAfterReuseEndedTheFamilyALoginHeals(t *testing.T) {
	s := newServer(t, fosite.Config{})
	cache, first := s.loggedIn(t)
	client := s.client(cache)
	s.endCurrent(t, cache)
	s.callMany(t, client, 10, 0)

	s.reuse(t, first.RefreshToken)
	s.saw()
	for range 3 {
		if err := s.call(client, 0); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Fatalf("family revoked: got error %v, want ErrReauthenticate", err)
		}
	}
	if got := s.saw(); got.Requests != 1 || got.Issued != 0 {
		t.Errorf("family revoked: got %+v, want one exchange that failed", got)
	}

	if err := cache.Set(t.Context(), s.login(t, s.public())); err != nil {
		t.Fatal(err)
	}
	s.callMany(t, client, 10, 0)
	if got := s.saw(); got != (counts{}) {
		t.Errorf("after the login: got %+v, want no exchange and no refusal", got)
	}
}

// losing loses the first reply, after the server has acted.
type losing struct {
	http.RoundTripper
	lost bool
}

func (l *losing) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(req)
	if err == nil && !l.lost {
		l.lost = true
		resp.Body.Close()
		return nil, errors.New("connection lost")
	}
	return resp, err
}

func TestALostReplyEndsInALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServerInBubble(t, fosite.Config{})
		e := s.public()
		first := s.login(t, e)
		e.Client = &http.Client{Transport: &losing{RoundTripper: s.Client.Transport}}
		cache := &tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: e, RefreshToken: first.RefreshToken}, Patience: -1}

		if _, err := cache.Token(t.Context(), nil); err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("lost reply: got error %v, want one that asks for no login", err)
		}
		time.Sleep(time.Second) // the Cache leaves the server alone for less
		if _, err := cache.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("afterwards: got error %v, want ErrReauthenticate", err)
		}
		if got := s.saw(); got.Requests != 2 || got.Issued != 1 || got.Reused != 1 {
			t.Errorf("got %+v, want the refresh token sent once more", got)
		}
	})
}
