//go:build unix

package redisstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// newerAndOlder returns two processes, of which the first has the newest token
// and the other the one before, and an empty Redis.
func newerAndOlder(t *testing.T) (srv *tokentest.Server, newer, older *process) {
	srv, s := tokentest.NewServer(t), newServer(t)
	source := refreshToken(srv)
	newer, older = newProcess(s, source), newProcess(s, source)
	if err := goodTokens(minute(t), srv, []*process{newer, older}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		srv.RevokeAccess()
		if err := newer.goodToken(minute(t), srv); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.client().FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	srv.RevokeAccess()
	return srv, newer, older
}

func TestFlushIsHealedByTheNewestToken(t *testing.T) {
	t.Parallel()
	srv, newer, older := newerAndOlder(t)
	for _, p := range []*process{newer, older} {
		if err := p.goodToken(minute(t), srv); err != nil {
			t.Errorf("got error %v, want a token", err)
		}
	}
	wantReuses(t, srv, 0)
}

// The worst that a flush can do. The older token's refresh token is spent, and
// the server ends the login.
func TestFlushMayNeedALogin(t *testing.T) {
	t.Parallel()
	srv, newer, older := newerAndOlder(t)
	for _, p := range []*process{older, newer} {
		if err := p.goodToken(minute(t), srv); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got error %v, want ErrReauthenticate", err)
		}
	}
	wantReuses(t, srv, 1)
	if err := older.cache.Set(minute(t), login(srv)); err != nil {
		t.Errorf("Set: got error %v", err)
	}
	heal(t, srv, newer, older)
	wantReuses(t, srv, 1)
}

// heal checks that a login has reached all processes.
func heal(t *testing.T, srv *tokentest.Server, processes ...*process) {
	t.Helper()
	for range 3 {
		for _, p := range processes {
			healed(t, srv, p)
		}
		srv.RevokeAccess()
	}
}

// healed waits until the Cache has forgotten its error, which takes a moment.
func healed(t *testing.T, srv *tokentest.Server, p *process) {
	t.Helper()
	for ctx := minute(t); ; {
		err := p.goodToken(ctx, srv)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Errorf("after a login: got error %v, want a token", err)
			return
		}
	}
}

func TestFlushWhileRefreshing(t *testing.T) {
	t.Parallel()
	srv, s := tokentest.NewServer(t), newServer(t)
	processes := newProcesses(6, s, refreshToken(srv))
	for range 5 {
		err := whileRefreshing(t, srv, processes, func(wait func()) {
			wait()
			if err := s.client().FlushAll(context.Background()).Err(); err != nil {
				t.Error(err)
			}
		})
		if err == nil {
			continue
		}
		t.Log("a new login was needed")
		if err := processes[0].cache.Set(minute(t), login(srv)); err != nil {
			t.Errorf("Set: got error %v", err)
		}
		heal(t, srv, processes...)
	}
}

func TestLoginAfterAFlushReachesWhoKnewTheNewest(t *testing.T) {
	t.Parallel()
	srv, newer, older := newerAndOlder(t)
	if err := older.goodToken(minute(t), srv); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got error %v, want ErrReauthenticate", err)
	}
	if err := older.cache.Set(minute(t), login(srv)); err != nil {
		t.Errorf("Set: got error %v", err)
	}
	heal(t, srv, newer, older)
}
