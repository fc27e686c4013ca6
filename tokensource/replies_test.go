package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
)

// Replies to a refresh, and what they mean: alone, for processes that share a Stored,
// and for a user of a Keyed. In a bubble it is 2000 at first, 946684800 s after 1970.
var replies = []struct {
	name  string
	says  string // status and body
	later string // what the server says after a minute; empty: the same
	via   func(*tokensource.Endpoint)
	final func(*tokensource.EndpointError) bool
	want  string // the token, after a minute; empty: ErrReauthenticate at once
	sent  int    // how often the refresh token was sent
}{
	// A dead refresh token, however it is told.
	{name: "RFC 6749", says: `400 {"error":"invalid_grant"}`, sent: 1},
	{name: "glewlwyd", says: `400 `, final: empty, sent: 1},
	{name: "UAA with its parameters", says: `401 {"error":"invalid_token"}`, via: asking, final: byCode("invalid_token"), sent: 1},
	{name: "dex", says: `400 {"error":"invalid_request"}`, final: byCode("invalid_request"), sent: 1},
	{name: "ATProto", says: `400 {"error":"ExpiredToken","message":"Token has expired"}`, final: byCode("ExpiredToken"), sent: 1},
	{name: "UAA", says: `401 {"error":"invalid_token","error_description":"expired"}`, final: byCode("invalid_token"), sent: 1},
	{name: "a plain 403", says: `403 no`, final: func(e *tokensource.EndpointError) bool { return e.StatusCode == 403 }, sent: 1},
	{name: "GitHub", says: `200 {"error":"bad_refresh_token"}`, final: byCode("bad_refresh_token"), sent: 1},
	{name: "Slack", says: `200 {"ok":false,"error":"invalid_refresh_token"}`, final: byCode("invalid_refresh_token"), sent: 1},
	{name: "Entra", says: `400 {"error":"interaction_required"}`, final: byCode("interaction_required"), sent: 1},
	{name: "Final and the RFC", says: `400 {"error":"invalid_grant"}`, final: byCode("bad_refresh_token"), sent: 1},
	{name: "wrapped", says: `200 {"code":20037}`, via: unwrapping, final: byCode("20037"), sent: 1},
	{name: "beside an assertion", says: `400 {"error":"invalid_grant"}`, via: asserting, sent: 2},
	{name: "beside a proof", says: `400 {"error":"invalid_grant"}`, via: proving, sent: 2},

	// What is not final: the refresh token still works when the server does.
	{name: "a gateway", says: `503 {"error":"invalid_grant"}`, later: `200 {"access_token":"a"}`, final: always, want: `a rt-1 0s "" map[]`},
	{name: "a limit", says: `429 {"error":"invalid_grant"}`, later: `200 {"access_token":"a"}`, final: always, want: `a rt-1 0s "" map[]`},
	{name: "500", says: `500 {"error":"invalid_grant"}`, later: `200 {"access_token":"a"}`, via: asserting, want: `a rt-1 0s "" map[]`},
	{name: "a proxy's page", says: `400 <html>`, later: `200 {"access_token":"a"}`, final: empty, want: `a rt-1 0s "" map[]`},
	{name: "a gateway's own JSON", says: `400 {"message":"Bad Request"}`, later: `200 {"access_token":"a"}`, final: empty, want: `a rt-1 0s "" map[]`},
	{name: "no code", says: `400 `, later: `200 {"access_token":"a"}`, want: `a rt-1 0s "" map[]`},
	{name: "another code", says: `401 {"error":"invalid_client"}`, later: `200 {"access_token":"a"}`, final: byCode("x"), want: `a rt-1 0s "" map[]`},
	{name: "an odd 200", says: `200 {"ok":false}`, later: `200 {"access_token":"a"}`, want: `a rt-1 0s "" map[]`},

	// Odd replies, and what came with the token.
	{name: "a side field of a wrong type", says: `200 {"error":false,"access_token":"a","refresh_token":"rt-2","scope":7}`, want: `a rt-2 0s "" map[]`, sent: 1},
	{name: "a refresh token of a wrong type", says: `200 {"access_token":"a","refresh_token":false}`, want: `a rt-1 0s "" map[]`, sent: 1},
	{name: "a byte order mark", says: "200 \ufeff" + `{"access_token":"a","refresh_token":"rt-2"}`, want: `a rt-2 0s "" map[]`, sent: 1},
	{name: "a form", says: `200 access_token=a&refresh_token=rt-2&expires_in=3600&scope=x+y`, want: `a rt-2 1h0m0s "x y" map[]`, sent: 1},
	{name: "wrapped", says: `200 {"code":0,"data":{"access_token":"a","refresh_token":"rt-2"}}`, via: unwrapping, want: `a rt-2 0s "" map[]`, sent: 1},
	{name: "JSON both ways", says: `200 {"accessToken":"a","refreshToken":"rt-2","expiresInMs":3600000}`, via: camelCase, want: `a rt-2 1h0m0s "" map[]`, sent: 1},
	{name: "expires_at", says: `200 {"access_token":"a","expires_at":946688400}`, want: `a rt-1 1h0m0s "" map[]`, sent: 1},
	{name: "expires_in that is a moment", says: `200 {"access_token":"a","expires_in":946688400}`, want: `a rt-1 1h0m0s "" map[]`, sent: 1},
	{name: "a JWT with exp alone", says: `200 {"access_token":"` + expOnly(time.Unix(946688400, 0)) + `"}`, want: expOnly(time.Unix(946688400, 0)) + ` rt-1 1h0m0s "" map[]`, sent: 1},
	{name: "scope and more", says: `200 {"access_token":"a","scope":"x y","id_token":"j.w.t"}`, want: `a rt-1 0s "x y" map[id_token:"j.w.t"]`, sent: 1},
	{name: "a list of scopes", says: `200 {"access_token":"a","scope":["x","y"]}`, want: `a rt-1 0s "x y" map[]`, sent: 1},
}

func byCode(code string) func(*tokensource.EndpointError) bool {
	return func(e *tokensource.EndpointError) bool { return e.Code == code }
}

func empty(e *tokensource.EndpointError) bool {
	return e.StatusCode == 400 && e.Code == "" && e.Err == nil
}

func asking(e *tokensource.Endpoint) {
	e.Params = url.Values{"response_type": {"token"}, "token_format": {"opaque"}}
}

func always(*tokensource.EndpointError) bool { return true }

func asserting(e *tokensource.Endpoint) {
	e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
}

func proving(e *tokensource.Endpoint) {
	e.Client = &http.Client{Transport: &transport.DPoP{Base: e.Client.Transport, Key: testP256()}}
}

func unwrapping(e *tokensource.Endpoint) {
	e.ReplyJSON = func(body []byte) ([]byte, error) {
		var r struct {
			Code int
			Data json.RawMessage
		}
		if err := json.Unmarshal(body, &r); err != nil || r.Code == 0 {
			return r.Data, err
		}
		return fmt.Appendf(nil, `{"error":"%d"}`, r.Code), nil
	}
}

func camelCase(e *tokensource.Endpoint) {
	e.RequestJSON = func(form url.Values) any { return map[string]string{"refreshToken": form.Get("refresh_token")} }
	e.ReplyJSON = func(body []byte) ([]byte, error) {
		var r struct {
			AccessToken, RefreshToken string
			ExpiresInMs               float64
		}
		err := json.Unmarshal(body, &r)
		return fmt.Appendf(nil, `{"access_token":%q,"refresh_token":%q,"expires_in":%f}`, r.AccessToken, r.RefreshToken, r.ExpiresInMs/1000), err
	}
}

// userOf is where a context has the user of a Keyed.
type userOf struct{}

// ways are the callers of a source: its own, 8 processes, 8 callers of one user.
var ways = map[string]func(*tokensource.RefreshToken) []tokensource.Source{
	"alone": func(source *tokensource.RefreshToken) []tokensource.Source {
		return []tokensource.Source{&tokensource.Cache{Source: source, Patience: -1}}
	},
	"below Stored": func(source *tokensource.RefreshToken) (all []tokensource.Source) {
		store := new(storetest.Memory)
		for range 8 {
			own := *source
			all = append(all, &tokensource.Cache{Source: &tokensource.Stored{Source: &own, Store: store, Key: "app"}, Patience: -1})
		}
		return all
	},
	"below Keyed": func(source *tokensource.RefreshToken) (all []tokensource.Source) {
		keyed := &tokensource.Keyed[string]{
			Key: func(ctx context.Context) (string, error) { return ctx.Value(userOf{}).(string), nil },
			New: func(user string) *tokensource.Cache {
				if user == "bob" {
					return &tokensource.Cache{Source: tokensource.Static(&Token{AccessToken: "bob's"})}
				}
				return &tokensource.Cache{Source: source, Patience: -1}
			},
		}
		for range 8 {
			all = append(all, tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
				if bob, err := keyed.Token(context.WithValue(ctx, userOf{}, "bob"), nil); err != nil || bob.AccessToken != "bob's" {
					return nil, fmt.Errorf("bob got %v and %v", bob, err)
				}
				return keyed.Token(context.WithValue(ctx, userOf{}, "ann"), old)
			}))
		}
		return all
	},
}

func TestARefreshMeansTheSameAloneBelowStoredAndBelowKeyed(t *testing.T) {
	for _, c := range replies {
		for way, callers := range ways {
			synctest.Test(t, func(t *testing.T) {
				var sent atomic.Int32
				began := time.Now()
				e := endpointReply(0, nil, "")
				e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
					sent.Add(1)
					if c.later != "" && time.Since(began) > time.Minute {
						return said(c.later)
					}
					return said(c.says)
				})
				if c.via != nil {
					c.via(&e)
				}
				all := callers(&tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt-1", Final: c.final})
				for _, got := range tokensOf(t, all, began) {
					if good := got == c.want; c.later == "" && !good || c.later != "" && (good || got == "") {
						t.Errorf("%s, %s: got %q at first, want %q", c.name, way, got, c.want)
					}
				}
				time.Sleep(10 * time.Minute)
				for _, got := range tokensOf(t, all, began) {
					if got != c.want {
						t.Errorf("%s, %s: got %q later, want %q", c.name, way, got, c.want)
					}
				}
				if got := int(sent.Load()); got != c.sent && c.sent > 0 {
					t.Errorf("%s, %s: the refresh token was sent %d times, want %d", c.name, way, got, c.sent)
				}
			})
		}
	}
}

// said answers with a status and a body, after a while.
func said(text string) (*http.Response, error) {
	time.Sleep(100 * time.Millisecond)
	status, body, _ := strings.Cut(text, " ")
	resp := &http.Response{Header: contentType("text/plain"), Body: io.NopCloser(strings.NewReader(body))}
	resp.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	_, err := fmt.Sscan(status, &resp.StatusCode)
	return resp, err
}

// tokensOf asks all at once, and tells what they got; empty: ErrReauthenticate.
func tokensOf(t *testing.T, all []tokensource.Source, began time.Time) []string {
	told := make(chan string)
	for _, source := range all {
		go func() {
			token, err := source.Token(t.Context(), nil)
			switch {
			case errors.Is(err, tokensource.ErrReauthenticate):
				told <- ""
			case err != nil:
				told <- err.Error()
			default:
				told <- fmt.Sprintf("%s %s %v %q %s", token.AccessToken, token.RefreshToken, life(token.Expiry, began).Round(time.Minute), token.Scope, token.Extra)
			}
		}()
	}
	got := make([]string, len(all))
	for i := range got {
		got[i] = <-told
	}
	return got
}
