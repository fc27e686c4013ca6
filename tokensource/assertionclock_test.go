package tokensource_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// dated answers a token request with a status and a Date that is off by skew.
func dated(skew time.Duration, status int, body string) tokensource.Endpoint {
	e := endpointReply(status, nil, body)
	e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
		h := http.Header{"Date": {time.Now().Add(skew).UTC().Format(http.TimeFormat)}}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
	return e
}

func TestAWrongLocalClockIsToldWhenAnAssertionIsRefused(t *testing.T) {
	for skew, want := range map[time.Duration]string{
		time.Hour:         ": the local clock is 1h0m0s behind the server's",
		-90 * time.Second: ": the local clock is 1m30s ahead of the server's",
		11 * time.Second:  ": the local clock is 11s behind the server's",
		10 * time.Second:  "",
		-10 * time.Second: "",
		0:                 "",
	} {
		for _, reply := range []string{"400 invalid_client", "401 invalid_grant", "503 unavailable"} {
			synctest.Test(t, func(t *testing.T) {
				var status int
				var code string
				fmt.Sscan(reply, &status, &code)
				e := dated(skew, status, fmt.Sprintf(`{"error":%q}`, code))
				jwtBearer := &tokensource.JWTBearer{Endpoint: e, Assertion: &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}}
				e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
				for _, source := range []tokensource.Source{jwtBearer, &tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt"}} {
					want := "tokensource: the token endpoint answered " + reply + want
					if _, spends := source.(*tokensource.RefreshToken); spends && code == "invalid_grant" && skew.Abs() <= 10*time.Second {
						want = tokensource.ErrReauthenticate.Error() + ": " + want
					}
					tok, err := source.Token(t.Context(), nil)
					wantEndpointError(t, tok, err, want)
				}
			})
		}
	}
}

func TestAWrongLocalClockIsToldInsteadOfAMissingCode(t *testing.T) {
	for _, c := range []struct {
		skew       time.Duration
		body, want string
	}{
		{time.Hour, `{}`, ": the local clock is 1h0m0s behind the server's"},
		{0, `{}`, ": reply: no error code"},
		{time.Hour, `<html>`, ": reply: markup, neither JSON nor a form"},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := dated(c.skew, 400, c.body)
			e.ClientAssertion = once()
			tok, err := e.Exchange(t.Context(), anyGrant)
			wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400"+c.want)
		})
	}
}

func TestTheClockIsNotBlamedWithoutAnAssertionOrADate(t *testing.T) {
	e := dated(time.Hour, 400, `{"error":"invalid_client"}`)
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_client")

	e = endpointReply(400, http.Header{"Date": {"yesterday"}}, `{"error":"invalid_client"}`)
	e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
	tok, err = (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_client")
}

func TestTheClockOfARealServerIsCompared(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(400)
		io.WriteString(w, `{"error":"invalid_client"}`)
	})
	e := tokensource.Endpoint{URL: srv.URL, ClientAssertion: &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}}
	_, err := e.Exchange(t.Context(), anyGrant)
	if err == nil || !strings.Contains(err.Error(), "400 invalid_client: the local clock is 1h0m") || !strings.HasSuffix(err.Error(), "s ahead of the server's") {
		t.Errorf("got %v, want it to say that the local clock is an hour ahead", err)
	}
}
