package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

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
