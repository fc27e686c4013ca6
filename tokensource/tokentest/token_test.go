package tokentest_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestARefreshRotatesTheTokenAndLeavesTheOldAccessTokenGood(t *testing.T) {
	srv := tokentest.NewServer(t)
	first := refresh(t, srv, srv.RefreshToken())
	second := refresh(t, srv, first.Refresh)
	wantStatus(t, "second refresh", second, 200, "")
	if second.Refresh == first.Refresh || second.Refresh == "" {
		t.Errorf("got the same or no refresh token after a refresh; want another")
	}
	wantGood(t, srv, "the first access token", first.Access, true)
	wantGood(t, srv, "the second access token", second.Access, true)
	want := tokentest.Counts{TokenRequests: 2, Issued: 2, Rotations: 2}
	if got := srv.Counts(); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func TestReuseOfARotatedRefreshTokenRevokesTheFamily(t *testing.T) {
	srv := tokentest.NewServer(t)
	spent := srv.RefreshToken()
	first := refresh(t, srv, spent)
	stranger := refresh(t, srv, srv.RefreshToken())
	wantStatus(t, "reuse", refresh(t, srv, spent), 400, "invalid_grant")
	wantStatus(t, "newest of the family", refresh(t, srv, first.Refresh), 400, "invalid_grant")
	wantGood(t, srv, "access token of the family", first.Access, false)
	wantGood(t, srv, "access token of another family", stranger.Access, true)
	wantStatus(t, "refresh of another family", refresh(t, srv, stranger.Refresh), 200, "")
	if got := srv.Counts().Reuses; got != 1 {
		t.Errorf("got %d reuses; want 1", got)
	}
}

func TestARefreshEndsTheAccessTokensOfItsFamilyWhenToldTo(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.SetRefreshEndsAccess(true)
	first := refresh(t, srv, srv.RefreshToken())
	stranger := refresh(t, srv, srv.RefreshToken())
	second := refresh(t, srv, first.Refresh)
	wantGood(t, srv, "before the refresh", first.Access, false)
	wantGood(t, srv, "after the refresh", second.Access, true)
	wantGood(t, srv, "of another family", stranger.Access, true)
}

func TestBasicCredentialsAreFormEncoded(t *testing.T) {
	srv := tokentest.NewServer(t)
	req := formRequest(t, srv, "grant_type", "client_credentials")
	req.SetBasicAuth(url.QueryEscape(srv.ClientID), url.QueryEscape(srv.ClientSecret))
	got := send(t, req)
	wantStatus(t, "encoded", got, 200, "")
	wantGood(t, srv, "access token", got.Access, true)
	if got.Refresh != "" {
		t.Error("got a refresh token for client_credentials; want none")
	}

	raw := formRequest(t, srv, "grant_type", "client_credentials")
	raw.SetBasicAuth(srv.ClientID, srv.ClientSecret)
	wantStatus(t, "not encoded", send(t, raw), 401, "invalid_client")
}

func TestTheSecretMayBeInTheForm(t *testing.T) {
	srv := tokentest.NewServer(t)
	got := post(t, srv, "grant_type", "client_credentials",
		"client_id", srv.ClientID, "client_secret", srv.ClientSecret)
	wantStatus(t, "client_secret_post", got, 200, "")
}

func TestErrorsAreThoseOfRFC6749(t *testing.T) {
	srv := tokentest.NewServer(t)
	id := srv.ClientID
	for _, c := range []struct {
		name, code string
		status     int
		form       []string
	}{
		{"public client credentials", "unauthorized_client", 400, []string{"grant_type", "client_credentials", "client_id", id}},
		{"no client", "invalid_client", 401, []string{"grant_type", "refresh_token"}},
		{"wrong secret", "invalid_client", 401, []string{"client_id", id, "client_secret", "x"}},
		{"no grant", "invalid_request", 400, []string{"client_id", id}},
		{"unknown grant", "unsupported_grant_type", 400, []string{"client_id", id, "grant_type", "password"}},
		{"no refresh token", "invalid_request", 400, []string{"client_id", id, "grant_type", "refresh_token"}},
		{"unknown refresh token", "invalid_grant", 400, []string{"client_id", id, "grant_type", "refresh_token", "refresh_token", "x"}},
		{"parameter twice", "invalid_request", 400, []string{"client_id", id, "client_id", id}},
	} {
		got := post(t, srv, c.form...)
		wantStatus(t, c.name, got, c.status, c.code)
		if challenge := got.Header.Get("WWW-Authenticate"); (challenge != "") != (c.status == 401) {
			t.Errorf("%s: got challenge %q with status %d", c.name, challenge, c.status)
		}
	}
}

func TestAClientThatIdentifiesItselfTwiceIsRefused(t *testing.T) {
	srv := tokentest.NewServer(t)
	for _, pair := range [][2]string{{"client_secret", srv.ClientSecret}, {"client_id", "another"}} {
		req := formRequest(t, srv, "grant_type", "client_credentials", pair[0], pair[1])
		req.SetBasicAuth(url.QueryEscape(srv.ClientID), url.QueryEscape(srv.ClientSecret))
		wantStatus(t, pair[0], send(t, req), 400, "invalid_request")
	}
}

func TestTokenAnswersAreNotToBeStored(t *testing.T) {
	srv := tokentest.NewServer(t)
	for _, token := range []string{srv.RefreshToken(), "unknown"} {
		if got := refresh(t, srv, token).Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("got Cache-Control %q; want no-store", got)
		}
	}
}

func TestExpiresInHasWholeSecondsOrIsLeftOut(t *testing.T) {
	srv := tokentest.NewServer(t)
	for lifetime, want := range map[time.Duration]int{
		1999 * time.Millisecond: 1,
		999 * time.Millisecond:  0,
		-time.Hour:              0,
	} {
		srv.SetLifetime(lifetime, 0)
		if got := refresh(t, srv, srv.RefreshToken()).Lifetime; got != want {
			t.Errorf("lifetime %v: got expires_in %d; want %d (0: none)", lifetime, got, want)
		}
	}
}

func TestOnlyPostIsAllowedAtTheTokenEndpoint(t *testing.T) {
	srv := tokentest.NewServer(t)
	if got := get(t, srv.TokenURL(), "").Status; got != http.StatusMethodNotAllowed {
		t.Errorf("got status %d for a GET; want %d", got, http.StatusMethodNotAllowed)
	}
}
