package tokentest_test

import (
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestTheServerListensOnLoopback(t *testing.T) {
	if srv := tokentest.NewServer(t); !strings.HasPrefix(srv.URL, "http://127.0.0.1:") {
		t.Errorf("got URL %s; want one on 127.0.0.1", srv.URL)
	}
}

func TestCloseEndsRequestsThatHangOrWait(t *testing.T) {
	for what, prepare := range map[string]func(*tokentest.Server){
		"hanging": func(srv *tokentest.Server) { srv.Fail(tokentest.Failure{Hang: true}) },
		"endless": func(srv *tokentest.Server) { srv.Fail(tokentest.Failure{Endless: true}) },
		"waiting": func(srv *tokentest.Server) { srv.SetLatency(time.Hour) },
	} {
		srv := tokentest.Start()
		prepare(srv)
		var clients sync.WaitGroup
		clients.Go(func() { http.Post(srv.LoginURL(), "application/json", nil) })
		for srv.Counts().TokenRequests == 0 {
			runtime.Gosched()
		}
		srv.Close()
		srv.Close()
		clients.Wait()
		if got := get(t, srv.APIURL(), "").Status; got != 0 {
			t.Errorf("%s: got status %d after Close; want no answer", what, got)
		}
	}
}

func TestOneOfManyConcurrentRefreshesWins(t *testing.T) {
	const clients = 200
	srv := tokentest.NewServer(t)
	token := srv.RefreshToken()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() { refresh(t, srv, token) })
	}
	all.Wait()
	want := tokentest.Counts{TokenRequests: clients, Issued: 1, Rotations: 1, Reuses: clients - 1}
	if got := srv.Counts(); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func TestKnobsMayBeTurnedWhileRequestsRun(t *testing.T) {
	srv := tokentest.NewServer(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { get(t, srv.APIURL(), login(t, srv, srv.Password).Access) })
		all.Go(func() { srv.SetLifetime(time.Minute, time.Minute); srv.RevokeAll() })
		all.Go(func() { srv.Fail(tokentest.Failure{Reset: true}); srv.ClearFailures() })
	}
	all.Wait()
	if got := srv.Counts().TokenRequests; got != 50 {
		t.Errorf("got %d token requests; want 50", got)
	}
}
