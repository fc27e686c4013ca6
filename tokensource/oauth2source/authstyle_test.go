package oauth2source_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/oauth2"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oauth2source"
)

// A picky token endpoint knows one way to authenticate the client.
type picky struct {
	*httptest.Server
	requests atomic.Int32
}

func newPicky(t *testing.T, knows func(r *http.Request) bool, refusal func(http.ResponseWriter)) *picky {
	p := new(picky)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := p.requests.Add(1)
		if r.ParseForm(); !knows(r) {
			refusal(w)
			return
		}
		fmt.Fprintf(w, `{"access_token":"at-%d"}`, n)
	}))
	t.Cleanup(p.Close)
	return p
}

// byHeader and byForm are the two ways, for a secret that must be encoded.
func byHeader(secret string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		id, password, ok := r.BasicAuth()
		return ok && id == url.QueryEscape("a:b") && password == url.QueryEscape(secret) && !r.Form.Has("client_id") && !r.Form.Has("client_secret")
	}
}

func byForm(secret string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Header.Get("Authorization") == "" && r.Form.Get("client_id") == "a:b" && r.Form.Get("client_secret") == secret
	}
}

func answer(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestTheClientAuthenticatesAsTheAuthStyleSays(t *testing.T) {
	const auto, header, params = oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams
	for name, c := range map[string]struct {
		style    oauth2.AuthStyle
		secret   string
		knows    func(string) func(*http.Request) bool
		requests int32 // for two tokens
	}{
		"header":                {header, "h u&h", byHeader, 2},
		"header without secret": {header, "", byHeader, 2},
		"form":                  {params, "h u&h", byForm, 2},
		"form without secret":   {params, "", byForm, 2},
		"detect header":         {auto, "h u&h", byHeader, 2},
		"detect form":           {auto, "h u&h", byForm, 3},
		"public client":         {auto, "", byForm, 2},
		"header with id only":   {auto, "", byHeader, 3},
	} {
		for _, refusal := range []func(http.ResponseWriter){
			answer(401, `{"error":"invalid_client"}`), answer(400, `{"error":"invalid_request"}`), answer(400, `{"error":"invalid_grant"}`), answer(400, `{"error":{"message":"m"}}`),
			answer(401, ``), answer(404, `<html>`), answer(200, `{"error":"incorrect_client_credentials"}`), answer(200, `error=incorrect_client_credentials`),
		} {
			p := newPicky(t, c.knows(c.secret), refusal)
			grant := oauth2source.RefreshToken(t.Context(), &oauth2.Config{
				ClientID: "a:b", ClientSecret: c.secret, Endpoint: oauth2.Endpoint{TokenURL: p.URL, AuthStyle: c.style},
			})
			grant.RefreshToken = "rt"
			for range 2 {
				if _, err := grant.Token(t.Context(), nil); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			want(t, name+": requests", p.requests.Load(), c.requests)
		}
	}
}

func TestATokenRequestThatMayHaveBeenCarriedOutIsNotSentAgain(t *testing.T) {
	for name, refusal := range map[string]func(http.ResponseWriter){
		"429":             answer(429, `{"error":"slow_down"}`),
		"503":             answer(503, ``),
		"a redirect":      answer(302, ``),
		"a wrapped token": answer(200, `{"code":0,"data":{"accessToken":"at"}}`),
		"markup":          answer(200, `<html>`),
		"a body without end": func(w http.ResponseWriter) {
			for _, err := w.Write(nil); err == nil; _, err = w.Write(make([]byte, 64<<10)) {
			}
		},
		"a connection that ends": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		p := newPicky(t, func(*http.Request) bool { return false }, refusal)
		grant := oauth2source.RefreshToken(t.Context(), &oauth2.Config{ClientID: "a", ClientSecret: "b", Endpoint: oauth2.Endpoint{TokenURL: p.URL}})
		grant.RefreshToken = "rt"
		_, err := grant.Token(t.Context(), nil)
		want(t, fmt.Sprintf("%s: requests, with the error %v", name, err), p.requests.Load(), int32(1))
	}
}

// A request is refused for another reason than the client if the server says so for one
// way and refuses the other, too: the refresh token is dead, or the scope unknown.
func TestARefusalOfTheRequestIsReportedWhileTheWayIsUnknown(t *testing.T) {
	for name, knows := range map[string]func(*http.Request) bool{"header": byHeader("hush"), "form": byForm("hush")} {
		for _, code := range []string{"invalid_grant", "invalid_scope", "invalid_target"} {
			p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ParseForm(); knows(r) {
					answer(400, `{"error":"`+code+`"}`)(w)
				} else {
					answer(401, `{"error":"invalid_client"}`)(w)
				}
			}))
			defer p.Close()
			grant := oauth2source.RefreshToken(t.Context(), &oauth2.Config{ClientID: "a:b", ClientSecret: "hush", Endpoint: oauth2.Endpoint{TokenURL: p.URL}})
			grant.RefreshToken = "rt"
			_, err := grant.Token(t.Context(), nil)
			refusal, _ := errors.AsType[*tokensource.EndpointError](err)
			if errors.Is(err, tokensource.ErrReauthenticate) != (code == "invalid_grant") || refusal == nil || refusal.Code != code {
				t.Errorf("%s: got %v, want an EndpointError of %s", name, err, code)
			}
		}
	}
}

// The errors of a detected way are those of any other: without secrets, however the
// server repeats them.
func TestAServerThatRepeatsItsInputPutsNoSecretIntoAnError(t *testing.T) {
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader} {
		endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.ParseForm()
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":%q}`, r.Header.Get("Authorization")+r.Form.Encode())
		}))
		defer endpoint.Close()
		grant := oauth2source.RefreshToken(t.Context(), &oauth2.Config{
			ClientID: "app", ClientSecret: "hush-hush", Endpoint: oauth2.Endpoint{TokenURL: endpoint.URL, AuthStyle: style},
		})
		grant.RefreshToken = "refresh-me"
		_, err := grant.Token(t.Context(), nil)
		text := fmt.Sprintf("%v %+v", err, grant)
		for _, secret := range []string{"hush", "refresh-me", "YXBwOmh1c2gtaHVzaA=="} {
			if err == nil || strings.Contains(text, secret) {
				t.Errorf("style %d: got %s, want an error without %s", style, text, secret)
			}
		}
	}
}
