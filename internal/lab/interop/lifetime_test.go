package interop_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestUploadsThatOutliveTheirTokenCostOneRefresh(t *testing.T) {
	const callers = 20
	synctest.Test(t, func(t *testing.T) {
		s := newServerInBubble(t, fosite.Config{AccessTokenLifespan: 3 * time.Second})
		cache, _ := s.loggedIn(t)
		s.callMany(t, s.client(cache), callers, 4*time.Second)
		if got, want := s.saw(), (counts{Requests: 1, Issued: 1, Refused: callers}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// Fosite rounds the moment at which a token ends, up or down, and truncates
// expires_in: it says 0 of some of these tokens.
func TestCallersNeverSeeShortTokensEnd(t *testing.T) {
	const callers, took, long = 5, 20 * time.Millisecond, 10 * time.Second
	for _, life := range []time.Duration{900 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newServerInBubble(t, fosite.Config{AccessTokenLifespan: life})
			cache, _ := s.loggedIn(t)
			client := s.client(cache)
			for began := time.Now(); time.Since(began) < long; time.Sleep(70 * time.Millisecond) {
				s.callMany(t, client, callers, took)
			}
			got := s.saw()
			if least := int(long / (life + time.Second)); got.Issued < least || got.Requests != got.Issued || got.Reused != 0 {
				t.Errorf("life %v: got %+v, want at least %d rotations, one an exchange", life, got, least)
			}
		})
	}
}

func TestARefreshTokenThatExpiredNeedsALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServerInBubble(t, fosite.Config{RefreshTokenLifespan: 8 * time.Hour})
		cache, _ := s.loggedIn(t)
		client := s.client(cache)
		for range 2 { // each rotation begins its life anew
			time.Sleep(7 * time.Hour)
			if err := s.call(client, 0); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(9 * time.Hour)
		if err := s.call(client, 0); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got error %v, want ErrReauthenticate", err)
		}
	})
}
