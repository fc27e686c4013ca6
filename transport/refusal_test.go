package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// ruling is what a rule says of a response with a status and challenges.
func ruling(rule func(*http.Response) bool, status int, lines ...string) bool {
	return rule(&http.Response{StatusCode: status, Header: http.Header{"Www-Authenticate": lines}})
}

func TestUnauthorizedIsAbout401AndOrForbiddenAbout403Too(t *testing.T) {
	for status := 100; status < 600; status++ {
		if got, want := ruling(transport.Unauthorized, status), status == 401; got != want {
			t.Errorf("Unauthorized, %d: got %t, want %t", status, got, want)
		}
		if got, want := ruling(transport.UnauthorizedOrForbidden, status), status == 401 || status == 403; got != want {
			t.Errorf("UnauthorizedOrForbidden, %d: got %t, want %t", status, got, want)
		}
	}
}

var rulings = []struct {
	lines []string
	want  bool
}{
	{nil, true},
	{[]string{``}, true},
	{[]string{`Bearer`}, true},
	{[]string{`Bearer realm="api"`}, true},
	{[]string{`Bearer error="invalid_token"`}, true},
	{[]string{`Bearer error="something_else"`}, true},
	{[]string{`DPoP error="invalid_token", algs="ES256"`}, true},
	{[]string{`Basic realm="api"`}, true},
	{[]string{`@@@ garbage "`}, true},
	{[]string{`Bearer realm="error=insufficient_scope"`}, true},
	{[]string{`Custom error="insufficient_scope"`}, true},
	{[]string{`Bearer error="insufficient_scope", scope="a b"`}, false},
	{[]string{`bearer Error = insufficient_scope`}, false},
	{[]string{`BEARER error="invalid_request"`}, false},
	{[]string{`Bearer error="insufficient_user_authentication", max_age=5`}, false},
	{[]string{`Bearer realm="", error="insufficient_claims", claims="e30="`}, false},
	{[]string{`DPoP error="use_dpop_nonce"`}, false},
	{[]string{`DPoP error="invalid_dpop_proof"`}, true},
	{[]string{`dpop error="insufficient_scope"`}, false},
	{[]string{`Basic realm="api", Bearer realm="api", error="insufficient_scope"`}, false},
	{[]string{`Basic realm="unterminated`, `Bearer error="insufficient_scope"`}, false},
	{[]string{`Negotiate abc==, B@d x, Bearer realm=, error="insufficient_scope"`}, false},
}

func TestARefusalIsWhatAnotherTokenCanCure(t *testing.T) {
	for _, c := range rulings {
		if got := ruling(transport.Unauthorized, 401, c.lines...); got != c.want {
			t.Errorf("Unauthorized, %q: got %t, want %t", c.lines, got, c.want)
		}
		for _, status := range []int{401, 403} {
			if got := ruling(transport.UnauthorizedOrForbidden, status, c.lines...); got != c.want {
				t.Errorf("UnauthorizedOrForbidden, %d %q: got %t, want %t", status, c.lines, got, c.want)
			}
		}
	}
}

// A crowd is many origins: each request says which token it begins with, and
// whether its origin takes another.
type crowd struct{ exchanged atomic.Int32 }

type crowded struct{ begin, takes string }

func (c *crowd) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if old == nil {
		return &tokensource.Token{AccessToken: ctx.Value(crowded{}).(crowded).begin}, nil
	}
	if old.AccessToken == "stale" {
		return &tokensource.Token{AccessToken: "current"}, nil
	}
	c.exchanged.Add(1)
	return &tokensource.Token{AccessToken: "next"}, nil
}

func (c *crowd) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") == "Bearer "+req.Context().Value(crowded{}).(crowded).takes {
		return bodyAnswer(200, http.NoBody), nil
	}
	return bodyAnswer(401, http.NoBody), nil
}

func (c *crowd) send(t *testing.T, auth *transport.Auth, host string, how crowded, status int) {
	t.Helper()
	ctx := context.WithValue(t.Context(), crowded{}, how)
	getsStatus(t, auth, postBody(t, "https://"+host, nil).WithContext(ctx), status)
}

func TestTokensThatProvedThemselvesAtManyOriginsDoNotEndTheProbationAtAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(crowd)
		auth := &transport.Auth{Source: c, Base: c}
		c.send(t, auth, "bad.example", crowded{begin: "stale"}, 401)
		for i := range 5000 {
			c.send(t, auth, fmt.Sprintf("good-%d.example", i), crowded{"stale", "current"}, 200)
			if i == 1022 || i == 1023 || i == 4999 { // the bound is 1024
				c.send(t, auth, "bad.example", crowded{begin: "current"}, 401)
			}
		}
		if got := c.exchanged.Load(); got != 0 {
			t.Errorf("%d refreshes for an origin that refuses the newest token, want none yet", got)
		}
	})
}

func TestProbationsAreForgottenWhenThereAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(crowd)
		auth := &transport.Auth{Source: c, Base: c}
		for _, begin := range []string{"stale", "current"} {
			if got := c.exchanged.Load(); got != 0 {
				t.Errorf("%d refreshes at once, want none", got)
			}
			for i := range 1025 {
				c.send(t, auth, fmt.Sprintf("bad-%d.example", i), crowded{begin: begin}, 401)
			}
		}
		if got := c.exchanged.Load(); got == 0 || got > 100 {
			t.Errorf("%d refreshes for 1025 origins, want one for each that was forgotten", got)
		}
	})
}

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

func TestALateSuccessOfTheTokenBeforeDoesNotEndAProbation(t *testing.T) {
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
			t.Errorf("%d token requests, want 3: token-3 is on probation", got)
		}
	})
}

func TestALateRefusalOfTheTokenBeforeDoesNotPutAProvedOneOnProbation(t *testing.T) {
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

func TestAnErrorTellsWhetherTheRequestWasSent(t *testing.T) {
	for status, want := range map[int]string{
		0:   "transport: the request was not sent: why",
		401: "transport: the request was refused with status 401, and not sent again: why",
	} {
		if got := (&transport.Error{StatusCode: status, Err: errors.New("why")}).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestATimeoutIsOneHoweverDeepItIsWrapped(t *testing.T) {
	for err, want := range map[error]bool{
		context.DeadlineExceeded:                                  true,
		fmt.Errorf("no token came: %w", context.DeadlineExceeded): true,
		context.Canceled:                                          false,
		&url.Error{Err: context.Canceled}:                         false,
		nil:                                                       false,
	} {
		if got := (&transport.Error{Err: err}).Timeout(); got != want {
			t.Errorf("%v: got %t, want %t", err, got, want)
		}
	}
}
