package tokentest_test

import (
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestRevokeAccessLeavesRefreshTokensAlive(t *testing.T) {
	srv := tokentest.NewServer(t)
	before := login(t, srv, srv.Password)
	srv.RevokeAccess()
	after := refresh(t, srv, before.Refresh)
	wantStatus(t, "refresh", after, 200, "")
	wantGood(t, srv, "before", before.Access, false)
	wantGood(t, srv, "after", after.Access, true)
}

func TestRevokeAllEndsEverythingButWhatComesLater(t *testing.T) {
	srv := tokentest.NewServer(t)
	before := login(t, srv, srv.Password)
	srv.RevokeAll()
	wantGood(t, srv, "before", before.Access, false)
	wantStatus(t, "refresh", refresh(t, srv, before.Refresh), 400, "invalid_grant")
	wantGood(t, srv, "later", login(t, srv, srv.Password).Access, true)
}

func TestExpireRefreshLeavesAccessTokensAlive(t *testing.T) {
	srv := tokentest.NewServer(t)
	before := login(t, srv, srv.Password)
	srv.ExpireRefresh()
	wantStatus(t, "old", refresh(t, srv, before.Refresh), 400, "invalid_grant")
	wantStatus(t, "new", refresh(t, srv, srv.RefreshToken()), 200, "")
	wantGood(t, srv, "access token", before.Access, true)
	if got := srv.Counts().Reuses; got != 0 {
		t.Errorf("got %d reuses; want 0", got)
	}
}

func TestLifetimesTakeEffectForTokensIssuedFromNowOn(t *testing.T) {
	srv := tokentest.NewServer(t)
	before := login(t, srv, srv.Password)
	srv.SetLifetime(0, -1)
	after := login(t, srv, srv.Password)
	wantGood(t, srv, "issued before", before.Access, true)
	wantGood(t, srv, "issued after", after.Access, false)
	wantStatus(t, "issued after", refresh(t, srv, after.Refresh), 400, "invalid_grant")
	wantStatus(t, "issued before", refresh(t, srv, before.Refresh), 200, "")
}

func TestALifetimeIsExactBelowASecond(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.SetLifetime(20*time.Millisecond, 0)
	access := login(t, srv, srv.Password).Access
	deadline := time.Now().Add(20 * time.Millisecond)
	for time.Now().Before(deadline) {
		srv.Check(access)
	}
	wantGood(t, srv, "after its lifetime", access, false)
}
