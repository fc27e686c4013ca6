//go:build movedclocks

package clocks_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// inBubble runs f in virtual time, with a wall clock that move moves.
func inBubble(t *testing.T, f func(t *testing.T, move func(time.Duration))) {
	t.Helper()
	moved := time.Duration(0)
	defer func() { time.MoveWall(-moved) }()
	synctest.Test(t, func(t *testing.T) {
		f(t, func(d time.Duration) { moved += d; time.MoveWall(d) })
	})
}

// An issuer gives tokens that live for life by both clocks.
type issuer struct {
	life  time.Duration
	strip bool // the times of its tokens have no reading of the monotonic clock
	early time.Duration
	err   error // if not nil

	calls  int
	issued map[string]time.Time // when each token dies
}

func (i *issuer) Token(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	i.calls++
	if i.err != nil {
		return nil, i.err
	}
	if i.issued == nil {
		i.issued = map[string]time.Time{}
	}
	t := &tokensource.Token{AccessToken: fmt.Sprint("token-", i.calls), Expiry: time.Now().Add(i.life)}
	i.issued[t.AccessToken] = t.Expiry
	if i.early > 0 {
		t.RefreshAt = time.Now().Add(i.early)
	}
	if i.strip {
		t.Expiry, t.RefreshAt = t.Expiry.Round(0), t.RefreshAt.Round(0)
	}
	return t, nil
}

// dead reports whether both clocks agree that the token is.
func (i *issuer) dead(token string) bool {
	now, end := time.Now(), i.issued[token]
	return !now.Before(end) && !now.Round(0).Before(end.Round(0))
}

// deadByWall reports whether the token is dead at a server, whose clock was not suspended.
func (i *issuer) deadByWall(token string) bool {
	return !time.Now().Round(0).Before(i.issued[token].Round(0))
}

func both(t *testing.T, f func(t *testing.T, strip bool)) {
	for _, strip := range []bool{false, true} {
		t.Run(fmt.Sprint("stripped ", strip), func(t *testing.T) { f(t, strip) })
	}
}

// An api is the base of an Auth, and refuses tokens that are dead at its clock.
type api struct {
	*issuer
	refusals int
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	status := 200
	if a.deadByWall(token) {
		status = 401
		a.refusals++
	}
	return &http.Response{StatusCode: status, Header: http.Header{"X-Token": {token}}, Body: http.NoBody, Request: req}, nil
}

func TestMovedAfterASuspensionTheFirstRequestCarriesANewToken(t *testing.T) {
	both(t, func(t *testing.T, strip bool) {
		inBubble(t, func(t *testing.T, move func(time.Duration)) {
			server := &api{issuer: &issuer{life: time.Hour, strip: strip}}
			client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: server}, Base: server}}
			for range 10 {
				get(t, client)
				time.Sleep(time.Minute)
			}
			move(2 * time.Hour) // suspended
			if got := get(t, client); got != "token-2" || server.calls != 2 || server.refusals != 0 {
				t.Errorf("sent %s after %d token requests and %d refusals, want token-2 after 2 and 0", got, server.calls, server.refusals)
			}
		})
	})
}

func get(t *testing.T, client *http.Client) string {
	t.Helper()
	resp, err := client.Get("https://api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("X-Token")
}

func TestMovedAClockThatIsSetBackKeepsNoTokenAlive(t *testing.T) {
	both(t, func(t *testing.T, strip bool) {
		inBubble(t, func(t *testing.T, move func(time.Duration)) {
			source := &issuer{life: time.Hour, strip: strip, early: 59 * time.Minute}
			c := &tokensource.Cache{Source: source}
			c.Token(t.Context(), nil)
			source.err = errors.New("away")
			move(-5 * time.Hour)
			time.Sleep(time.Hour)
			if got, err := c.Token(t.Context(), nil); err == nil {
				t.Errorf("got %v an hour later, want the error", got)
			}
		})
	})
}

func TestMovedAClockThatIsSetBackKeepsNoTokenAliveThatItsSourceConfirmed(t *testing.T) {
	inBubble(t, func(t *testing.T, move func(time.Duration)) {
		only, away := &tokensource.Token{AccessToken: "only", Expiry: time.Now().Add(time.Hour).Round(0)}, error(nil)
		c := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { return only, away })}
		c.Token(t.Context(), nil)
		move(-5 * time.Hour)
		c.Token(t.Context(), only) // is confirmed
		away = errors.New("away")
		time.Sleep(time.Hour)
		if got, err := c.Token(t.Context(), nil); err == nil {
			t.Errorf("got %v an hour later, want the error", got)
		}
	})
}

func TestMovedAnEarlyRefreshBeginsByTheFasterClock(t *testing.T) {
	for name, pass := range map[string]func(move func(time.Duration)){
		"set back":  func(move func(time.Duration)) { move(-5 * time.Hour); time.Sleep(30 * time.Minute) },
		"suspended": func(move func(time.Duration)) { move(30 * time.Minute) },
	} {
		both(t, func(t *testing.T, strip bool) {
			inBubble(t, func(t *testing.T, move func(time.Duration)) {
				source := &issuer{life: time.Hour, strip: strip, early: 30 * time.Minute}
				c := &tokensource.Cache{Source: source}
				c.Token(t.Context(), nil)
				pass(move)
				c.Token(t.Context(), nil)
				synctest.Wait()
				if source.calls != 2 {
					t.Errorf("%s: %d token requests, want 2", name, source.calls)
				}
			})
		})
	}
}

func TestMovedAPauseEndsByTheFasterClock(t *testing.T) {
	down := &tokensource.EndpointError{StatusCode: 503, RetryAfter: 4 * time.Minute}
	for name, pass := range map[string]func(move func(time.Duration)){
		"set back":  func(move func(time.Duration)) { move(-5 * time.Hour); time.Sleep(5 * time.Minute) },
		"suspended": func(move func(time.Duration)) { move(5 * time.Minute) },
	} {
		inBubble(t, func(t *testing.T, move func(time.Duration)) {
			source := &issuer{life: time.Hour, err: down}
			c := &tokensource.Cache{Source: source}
			c.Token(t.Context(), nil)
			pass(move)
			for range 100 {
				c.Token(t.Context(), nil)
			}
			if source.calls != 2 {
				t.Errorf("%s: %d token requests, want 2", name, source.calls)
			}
		})
	}
}

// The wall clock is set back and forth under load. No token is sent that is dead by
// both clocks, each step costs at most one refresh, and no pause is longer than its
// bound.
func TestMovedStepsUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, strip bool) {
		inBubble(t, func(t *testing.T, move func(time.Duration)) {
			source := &issuer{life: time.Hour, strip: strip}
			c := &tokensource.Cache{Source: source}
			const steps = 200
			for range steps {
				calls := source.calls
				for range 60 {
					token, err := c.Token(t.Context(), nil)
					if err != nil || source.dead(token.AccessToken) {
						t.Fatalf("got %v, %v, want a token that is not dead by both clocks", token, err)
					}
					time.Sleep(10 * time.Second)
				}
				if got := source.calls - calls; got > 2 { // one of them for the step
					t.Errorf("%d token requests in 10 minutes with one step, want 2 at most", got)
				}
				move(time.Duration(rand.IntN(7200)-3600) * time.Second)
			}
			if most := steps + steps/3; source.calls > most {
				t.Errorf("%d token requests, want at most %d", source.calls, most)
			}
		})
	})
}

func TestMovedStepsInAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, move func(time.Duration)) {
		source := &issuer{life: time.Hour, err: errors.New("away")}
		c := &tokensource.Cache{Source: source, Patience: -1}
		last, calls := time.Now(), 0
		for n := range 36_000 {
			if c.Token(t.Context(), nil); source.calls > calls {
				last, calls = time.Now(), source.calls
			}
			if rest := time.Since(last); rest > 100*time.Second {
				t.Fatalf("left alone for %v, want 100s at most", rest)
			}
			time.Sleep(time.Second)
			if n%600 == 0 {
				move(time.Duration(rand.IntN(7200)-3600) * time.Second)
			}
		}
	})
}

// A source below a TokenExchange that caches nothing learns of a suspension, too.
func TestMovedAnExpiredSubjectIsNotSent(t *testing.T) {
	inBubble(t, func(t *testing.T, move func(time.Duration)) {
		subject, _ := (&issuer{life: time.Hour}).Token(t.Context(), nil)
		exchange := &tokensource.TokenExchange{
			Endpoint: tokensource.Endpoint{URL: "https://login.example.com", Client: &http.Client{Transport: refuse{t}}},
			Subject:  tokensource.Static(subject),
		}
		move(2 * time.Hour)
		if _, err := exchange.Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "Subject") {
			t.Errorf("got error %v, want one that names Subject", err)
		}
	})
}

// refuse fails the test if a request is sent.
type refuse struct{ t *testing.T }

func (r refuse) RoundTrip(*http.Request) (*http.Response, error) {
	r.t.Error("a request was sent")
	return nil, errors.New("refused")
}
