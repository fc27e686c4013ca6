package tokentest_test

import (
	"testing"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func login(t *testing.T, srv *tokentest.Server, password string) answer {
	t.Helper()
	return postJSON(t, srv.LoginURL(), map[string]string{"username": srv.Username, "password": password})
}

func refreshJSON(t *testing.T, srv *tokentest.Server, token string) answer {
	t.Helper()
	return postJSON(t, srv.RefreshURL(), map[string]string{"refreshToken": token})
}

func TestALoginGivesTokensThatCanBeRefreshed(t *testing.T) {
	srv := tokentest.NewServer(t)
	first := login(t, srv, srv.Password)
	second := refreshJSON(t, srv, first.Refresh)
	wantGood(t, srv, "after login", first.Access, true)
	wantGood(t, srv, "after refresh", second.Access, true)
	wantStatus(t, "the same family by RFC 6749", refresh(t, srv, second.Refresh), 200, "")
	want := tokentest.Counts{TokenRequests: 3, Issued: 3, Rotations: 2}
	if got := srv.Counts(); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func TestAWrongPasswordIsRefused(t *testing.T) {
	srv := tokentest.NewServer(t)
	wantStatus(t, "login", login(t, srv, "wrong"), 401, "wrong username or password")
}

func TestADeadRefreshTokenIsForbiddenAndRevokesItsFamilyIfSpent(t *testing.T) {
	srv := tokentest.NewServer(t)
	first := login(t, srv, srv.Password)
	second := refreshJSON(t, srv, first.Refresh)
	for what, token := range map[string]string{"unknown": "x", "spent": first.Refresh} {
		if got := refreshJSON(t, srv, token); got.Status != 403 || got.Error == "" {
			t.Errorf("%s: got status %d, message %q; want 403 and a message", what, got.Status, got.Error)
		}
	}
	wantGood(t, srv, "access token of the family", second.Access, false)
}

func TestALoginThatIsNotJSONIsABadRequest(t *testing.T) {
	srv := tokentest.NewServer(t)
	wantStatus(t, "login", postJSON(t, srv.LoginURL(), 1), 400, "the body is not the JSON of a login")
	wantStatus(t, "refresh", postJSON(t, srv.RefreshURL(), 1), 400, "the body is not the JSON of a refresh")
}
