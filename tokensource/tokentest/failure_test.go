package tokentest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestFailuresQueueAndEnd(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.Fail(tokentest.Failure{Times: 2})
	srv.Fail(tokentest.Failure{Status: 429, RetryAfter: "soon", Body: "later", ContentType: "text/plain"})
	token := srv.RefreshToken()
	for range 2 {
		wantStatus(t, "the zero failure", refresh(t, srv, token), 503, "temporarily_unavailable")
	}
	got := refresh(t, srv, token)
	wantStatus(t, "then", got, 429, "")
	if after, typ := got.Header.Get("Retry-After"), got.Header.Get("Content-Type"); after != "soon" || typ != "text/plain" {
		t.Errorf("got Retry-After %q, Content-Type %q; want soon, text/plain", after, typ)
	}
	wantStatus(t, "in the end", refresh(t, srv, token), 200, "")
	if got := srv.Counts(); got.TokenRequests != 4 || got.Issued != 1 {
		t.Errorf("got %+v; want 4 token requests, 1 issued", got)
	}
}

func TestAFailureWithoutNumberLastsUntilCleared(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.Fail(tokentest.Failure{Times: -1, Body: `{"error":"odd"}`})
	for range 3 {
		wantStatus(t, "before", login(t, srv, srv.Password), 200, "odd")
	}
	srv.ClearFailures()
	wantStatus(t, "after", login(t, srv, srv.Password), 200, "")
}

func TestALostReplyHasSpentTheRefreshToken(t *testing.T) {
	srv := tokentest.NewServer(t)
	token := srv.RefreshToken()
	srv.Fail(tokentest.Failure{LoseReply: true})
	if got := refresh(t, srv, token); got.Status != 0 {
		t.Errorf("got status %d; want a broken connection", got.Status)
	}
	wantStatus(t, "once more", refresh(t, srv, token), 400, "invalid_grant")
	want := tokentest.Counts{TokenRequests: 2, Issued: 1, Rotations: 1, Reuses: 1}
	if got := srv.Counts(); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func TestAResetLeavesTheRefreshTokenUnspent(t *testing.T) {
	srv := tokentest.NewServer(t)
	token := srv.RefreshToken()
	srv.Fail(tokentest.Failure{Reset: true})
	req := formRequest(t, srv, "grant_type", "refresh_token")
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v; want %v", err, syscall.ECONNRESET)
	}
	wantStatus(t, "once more", refresh(t, srv, token), 200, "")
}

func TestAnEndlessAnswerGoesOnUntilTheClientLeaves(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.Fail(tokentest.Failure{Endless: true})
	resp, err := http.DefaultClient.Do(formRequest(t, srv))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, resp.Body, 4<<20)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("got %d bytes, status %d, error %v; want %d, 200, nil", n, resp.StatusCode, err, 4<<20)
	}
}

// The client gives up when the server has counted the request, so that it is
// known to hang or to wait.
func TestAClientThatGivesUpHasSpentNothing(t *testing.T) {
	srv := tokentest.NewServer(t)
	token := srv.RefreshToken()
	srv.Fail(tokentest.Failure{Hang: true})
	giveUp(t, srv, token)
	srv.SetLatency(time.Hour)
	giveUp(t, srv, token)
	srv.SetLatency(0)
	wantStatus(t, "once more", refresh(t, srv, token), 200, "")
}

func giveUp(t *testing.T, srv *tokentest.Server, token string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	before := srv.Counts().TokenRequests
	go func() {
		for srv.Counts().TokenRequests == before {
			runtime.Gosched()
		}
		cancel()
	}()
	req := formRequest(t, srv, "grant_type", "refresh_token", "refresh_token", token, "client_id", srv.ClientID)
	if got := send(t, req.WithContext(ctx)); got.Status != 0 {
		t.Errorf("got status %d; want no answer", got.Status)
	}
}
