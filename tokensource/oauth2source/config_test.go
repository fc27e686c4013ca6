package oauth2source_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oauth2source"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

func configOf(srv *tokentest.Server) *oauth2.Config {
	return &oauth2.Config{ClientID: srv.ClientID, ClientSecret: srv.ClientSecret, Endpoint: oauth2.Endpoint{TokenURL: srv.TokenURL()}}
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestARefusalRefreshesWhereAConfigsClientKeepsItsToken(t *testing.T) {
	srv := tokentest.NewServer(t)
	cache := &tokensource.Cache{Source: oauth2source.RefreshToken(t.Context(), configOf(srv))}
	cache.Set(t.Context(), oauth2source.Token(&oauth2.Token{RefreshToken: srv.RefreshToken()}))
	for name, c := range map[string]struct {
		client *http.Client
		status int
	}{
		"x/oauth2": {configOf(srv).Client(t.Context(), &oauth2.Token{RefreshToken: srv.RefreshToken()}), 401},
		"ours":     {&http.Client{Transport: &transport.Auth{Source: cache}}, 200},
	} {
		for _, status := range []int{200, c.status} {
			resp, err := c.client.Get(srv.APIURL())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			want(t, name, resp.StatusCode, status)
			srv.RevokeAccess()
		}
	}
	want(t, "spent refresh tokens that were sent again", srv.Counts().Reuses, 0)
}

// brokenStore fails.
type brokenStore struct{ tokensource.Store }

func (brokenStore) Load(context.Context, string) ([]byte, error) { return nil, errors.New("down") }

func TestARefreshTokenOfAConfigIsNotSpentWithoutTheLock(t *testing.T) {
	srv := tokentest.NewServer(t)
	grant := oauth2source.RefreshToken(t.Context(), configOf(srv))
	grant.RefreshToken = srv.RefreshToken()
	stored := &tokensource.Stored{Source: grant, Store: brokenStore{}, Key: "reports", Unshared: true}
	_, err := stored.Token(t.Context(), nil)
	_, failed := errors.AsType[*tokensource.StoreError](err)
	want(t, fmt.Sprintf("a StoreError, with the error %v", err), failed, true)
	want(t, "token requests", srv.Counts().TokenRequests, 0)
}

func TestTheContextsClientSendsTokenRequests(t *testing.T) {
	srv := tokentest.NewServer(t)
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleAutoDetect, oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader} {
		sent := 0
		client := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent++
			return http.DefaultTransport.RoundTrip(req)
		})}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), oauth2.HTTPClient, client))
		config := configOf(srv)
		config.Endpoint.AuthStyle = style
		grant := oauth2source.RefreshToken(ctx, config)
		cancel() // which does not matter
		grant.RefreshToken = srv.RefreshToken()
		_, err := grant.Token(t.Context(), nil)
		want(t, fmt.Sprintf("style %d, the client's requests and the error", style), fmt.Sprint(sent, err), "1 <nil>")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestClientCredentialsSendWhatTheirConfigSays(t *testing.T) {
	var form url.Values
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		form = r.PostForm
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"at"}`)
	}))
	defer endpoint.Close()
	config := &clientcredentials.Config{
		ClientID: "app", ClientSecret: "hush", TokenURL: endpoint.URL, Scopes: []string{"a", "b"},
		EndpointParams: url.Values{"audience": {"one", "two"}}, AuthStyle: oauth2.AuthStyleInParams,
	}
	_, err := config.Token(t.Context())
	theirs := form.Encode()
	if err != nil || theirs == "" {
		t.Fatalf("x/oauth2: got the form %q, error %v", theirs, err)
	}
	_, err = oauth2source.ClientCredentials(t.Context(), config).Token(t.Context(), nil)
	want(t, "the form and the error", fmt.Sprint(form.Encode(), err), theirs+"<nil>")

	form = nil
	config.EndpointParams = url.Values{"grant_type": {"password"}}
	_, err = oauth2source.ClientCredentials(t.Context(), config).Token(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "grant_type") || form != nil {
		t.Errorf("another grant: got the form %v, error %v; want an error about grant_type and no request", form, err)
	}
}

func TestALoginIsPassedOnWhole(t *testing.T) {
	expiry := time.Now().Add(time.Hour)
	for name, raw := range map[string]any{
		"JSON": map[string]any{"scope": "a b", "id_token": "eyJ", "n": 1.5},
		"form": url.Values{"scope": {"a b"}, "id_token": {"eyJ"}, "n": {"1.5"}},
	} {
		login := (&oauth2.Token{AccessToken: "at", TokenType: "DPoP", RefreshToken: "rt", Expiry: expiry}).WithExtra(raw)
		got := oauth2source.Token(login, "id_token", "n", "missing")
		text, err := tokensource.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		expected, _ := tokensource.Marshal(&tokensource.Token{AccessToken: "at", TokenType: "DPoP", RefreshToken: "rt", Expiry: expiry,
			Scope: "a b", Extra: map[string]json.RawMessage{"id_token": json.RawMessage(`"eyJ"`), "n": json.RawMessage("1.5")}})
		want(t, name, string(text), string(expected))
	}
	var cache tokensource.Cache
	if cache.Set(t.Context(), oauth2source.Token(nil)) == nil {
		t.Error("Set of no token: got no error")
	}
}
