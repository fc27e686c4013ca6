package foreign_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// Each test here is a line of the table in moving.md: it shows both sides.

func theirs(srv *tokentest.Server) *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID:     srv.ClientID,
		ClientSecret: srv.ClientSecret,
		TokenURL:     srv.TokenURL(),
		AuthStyle:    oauth2.AuthStyleInHeader,
	}
}

func ours(srv *tokentest.Server) *http.Client {
	return &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}}}}
}

// both are a client of each kind with the token "at", over the same base.
func both(base http.RoundTripper) (theirs, ours *http.Client) {
	theirs = &http.Client{Transport: &oauth2.Transport{Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "at"}), Base: base}}
	ours = &http.Client{Transport: &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "at"}), Base: base}}
	return theirs, ours
}

func get(t *testing.T, client *http.Client, url string) *http.Response {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestWhoSeesARefusal(t *testing.T) {
	srv := tokentest.NewServer(t)
	for name, c := range map[string]struct {
		client *http.Client
		want   int
	}{
		"x/oauth2": {theirs(srv).Client(t.Context()), 401},
		"ours":     {ours(srv), 200},
	} {
		get(t, c.client, srv.APIURL())
		srv.RevokeAccess()
		want(t, name, get(t, c.client, srv.APIURL()).StatusCode, c.want)
	}
}

func TestWhereARedirectTakesTheToken(t *testing.T) {
	theirs, ours := both(nil)
	want(t, "x/oauth2", pages.Redirected(t, theirs), "Bearer at")
	want(t, "ours", pages.Redirected(t, ours), "")
}

func TestWhatAnOutageCosts(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.Fail(tokentest.Failure{Times: -1})
	cost := func(client *http.Client) int {
		before := srv.Counts().TokenRequests
		for range 20 {
			if _, err := client.Get(srv.APIURL()); err == nil {
				t.Error("got no error")
			}
		}
		return srv.Counts().TokenRequests - before
	}
	want(t, "x/oauth2", cost(theirs(srv).Client(t.Context())), 20)
	if got := cost(ours(srv)); got > 12 {
		t.Errorf("ours: got %d token requests, want at most 12, while it hides the outage", got)
	}
}

func TestWhoseContextARefreshHas(t *testing.T) {
	srv := tokentest.NewServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	client := theirs(srv).Client(ctx)
	cancel()
	_, err := client.Get(srv.APIURL())
	want(t, "x/oauth2, when the context that made the client has ended", errors.Is(err, context.Canceled), true)

	left, leave := context.WithCancel(t.Context())
	leave()
	req, _ := http.NewRequestWithContext(left, http.MethodGet, srv.APIURL(), nil)
	before := srv.Counts().TokenRequests
	theirs(srv).Client(t.Context()).Do(req)
	want(t, "x/oauth2, token requests for a caller who has left", srv.Counts().TokenRequests-before, 1)
	ours(srv).Do(req)
	want(t, "ours, token requests for a caller who has left", srv.Counts().TokenRequests-before, 1)
}

func TestWhatTravelsUnencrypted(t *testing.T) {
	seen := ""
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		seen = req.Header.Get("Authorization")
		return httptest.NewRecorder().Result(), nil
	})
	theirs, ours := both(base)
	get(t, theirs, "http://api.example.com/")
	want(t, "x/oauth2", seen, "Bearer at")
	seen = ""
	_, err := ours.Get("http://api.example.com/")
	_, failed := errors.AsType[*transport.Error](err)
	want(t, "ours fails", failed, true)
	want(t, "ours", seen, "")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestWhoseAuthorizationIsSent(t *testing.T) {
	var seen string
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get("Authorization") }))
	defer api.Close()
	theirs, ours := both(nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, api.URL, nil)
	req.Header.Set("Authorization", "Basic own")
	theirs.Do(req)
	want(t, "x/oauth2", seen, "Bearer at")
	ours.Do(req)
	want(t, "ours", seen, "Basic own")
}

func TestWhatARedirectOfTheTokenEndpointGets(t *testing.T) {
	var secret string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret = r.PostFormValue("client_secret")
		io.WriteString(w, `{"access_token":"at"}`)
	}))
	defer other.Close()
	endpoint := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer endpoint.Close()

	config := &clientcredentials.Config{ClientID: "app", ClientSecret: "hush", TokenURL: endpoint.URL, AuthStyle: oauth2.AuthStyleInParams}
	config.Token(t.Context())
	want(t, "x/oauth2", secret, "hush")
	secret = ""
	grant := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{URL: endpoint.URL, ClientID: "app", ClientSecret: "hush", ClientSecretPost: true}}
	grant.Token(t.Context(), nil)
	want(t, "ours", secret, "")
}

func TestWhoGuessesHowTheSecretIsSent(t *testing.T) {
	var requests atomic.Int32
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.PostFormValue("client_secret") != "hush" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"at"}`)
	}))
	defer endpoint.Close()
	_, err := (&clientcredentials.Config{ClientID: "app", ClientSecret: "hush", TokenURL: endpoint.URL}).Token(t.Context())
	want(t, "x/oauth2", fmt.Sprint(requests.Swap(0), err), "2 <nil>")

	grant := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{URL: endpoint.URL, ClientID: "app", ClientSecret: "hush"}}
	_, err = grant.Token(t.Context(), nil)
	want(t, "ours", fmt.Sprint(requests.Swap(0), err), "1 tokensource: the token endpoint answered 401 invalid_client")
	grant.Endpoint.ClientSecretPost = true
	_, err = grant.Token(t.Context(), nil)
	want(t, "ours with ClientSecretPost", fmt.Sprint(requests.Swap(0), err), "1 <nil>")
}

func TestWhatAResponseShows(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer api.Close()
	theirs, ours := both(nil)
	want(t, "x/oauth2", get(t, theirs, api.URL).Request.Header.Get("Authorization"), "Bearer at")
	want(t, "ours", get(t, ours, api.URL).Request.Header.Get("Authorization"), "")
}

func TestWhatIsPrinted(t *testing.T) {
	want(t, "x/oauth2, a token", strings.Contains(fmt.Sprint(oauth2.Token{AccessToken: "hush"}), "hush"), true)
	want(t, "ours, a token", strings.Contains(fmt.Sprint(tokensource.Token{AccessToken: "hush"}), "hush"), false)

	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "cannot handle %s", r.PostFormValue("client_secret"))
	}))
	defer endpoint.Close()
	config := &clientcredentials.Config{ClientID: "app", ClientSecret: "hush", TokenURL: endpoint.URL, AuthStyle: oauth2.AuthStyleInParams}
	_, err := config.Token(t.Context())
	want(t, "x/oauth2, an error", strings.Contains(err.Error(), "hush"), true)
	grant := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{URL: endpoint.URL, ClientID: "app", ClientSecret: "hush", ClientSecretPost: true}}
	_, err = grant.Token(t.Context(), nil)
	want(t, "ours, an error", strings.Contains(err.Error(), "hush"), false)
}

func TestATokenSavedByEitherIsReadByTheOther(t *testing.T) {
	for _, expiry := range []time.Time{{}, time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)} {
		data, err := json.Marshal(&oauth2.Token{AccessToken: "at", TokenType: "Bearer", RefreshToken: "rt", Expiry: expiry, ExpiresIn: 60})
		if err != nil {
			t.Fatal(err)
		}
		token, err := tokensource.Unmarshal(data)
		if err != nil || token.AccessToken != "at" || token.TokenType != "Bearer" || token.RefreshToken != "rt" || !token.Expiry.Equal(expiry) {
			t.Errorf("%s: got %v, %v", data, token, err)
		}
		if data, err = tokensource.Marshal(token); err != nil {
			t.Fatal(err)
		}
		var back oauth2.Token
		if err := json.Unmarshal(data, &back); err != nil || back.AccessToken != "at" || back.TokenType != "Bearer" || back.RefreshToken != "rt" || !back.Expiry.Equal(expiry) {
			t.Errorf("%s: got %v", data, err)
		}
	}
}

func TestWhatAnOutageDoesToATokenThatIsAboutToExpire(t *testing.T) {
	srv := tokentest.NewServer(t)
	grant := &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
		RefreshToken: srv.RefreshToken(),
	}
	good, err := grant.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.Fail(tokentest.Failure{Times: -1})
	soon := time.Now().Add(9 * time.Second)

	config := &oauth2.Config{ClientID: srv.ClientID, Endpoint: oauth2.Endpoint{TokenURL: srv.TokenURL()}}
	_, err = config.Client(t.Context(), &oauth2.Token{AccessToken: good.AccessToken, RefreshToken: good.RefreshToken, Expiry: soon}).Get(srv.APIURL())
	want(t, "x/oauth2 fails", err != nil, true)

	cache := &tokensource.Cache{Source: grant}
	cache.Set(t.Context(), &tokensource.Token{AccessToken: good.AccessToken, RefreshToken: good.RefreshToken, Expiry: soon})
	want(t, "ours", get(t, &http.Client{Transport: &transport.Auth{Source: cache}}, srv.APIURL()).StatusCode, 200)
}

func TestWhatIsDoneWithADeadRefreshToken(t *testing.T) {
	srv := tokentest.NewServer(t)
	cost := func(client *http.Client) (requests int, err error) {
		before := srv.Counts().TokenRequests
		for range 3 {
			_, err = client.Get(srv.APIURL())
		}
		return srv.Counts().TokenRequests - before, err
	}
	config := &oauth2.Config{ClientID: srv.ClientID, Endpoint: oauth2.Endpoint{TokenURL: srv.TokenURL(), AuthStyle: oauth2.AuthStyleInParams}}
	n, err := cost(config.Client(t.Context(), &oauth2.Token{RefreshToken: "dead"}))
	refusal, _ := errors.AsType[*oauth2.RetrieveError](err)
	want(t, "x/oauth2", fmt.Sprint(n, " ", refusal.ErrorCode), "3 invalid_grant")

	n, err = cost(&http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
		RefreshToken: "dead",
	}}}})
	want(t, "ours", fmt.Sprint(n, errors.Is(err, tokensource.ErrReauthenticate)), "1 true")
}
