package foreign_test

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// What moving.md has as "before".

func Example_clientCredentials() {
	srv := tokentest.Start()
	defer srv.Close()
	ctx := context.Background()
	clientID, clientSecret, tokenURL := srv.ClientID, srv.ClientSecret, srv.TokenURL()

	config := &clientcredentials.Config{
		ClientID:     clientID,
		ClientSecret: clientSecret,
		TokenURL:     tokenURL,
		Scopes:       []string{"reports"},
	}
	client := config.Client(ctx)

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

func Example_storedToken() {
	srv := tokentest.Start()
	defer srv.Close()
	ctx := context.Background()
	path, remove := pages.TokenFile(srv)
	defer remove()
	clientID, tokenURL := srv.ClientID, srv.TokenURL()

	config := &oauth2.Config{ClientID: clientID, Endpoint: oauth2.Endpoint{TokenURL: tokenURL}}
	data, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	token := new(oauth2.Token)
	if err := json.Unmarshal(data, token); err != nil {
		log.Fatal(err)
	}
	client := config.Client(ctx, token)

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

// A loginSource is an own TokenSource.
type loginSource struct {
	login func() (string, time.Time, error)
}

func (s *loginSource) Token() (*oauth2.Token, error) {
	text, expiry, err := s.login()
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: text, Expiry: expiry}, nil
}

func Example_ownSource() {
	srv := tokentest.Start()
	defer srv.Close()
	base := http.DefaultTransport
	login := loginTo(srv)

	client := &http.Client{Transport: &oauth2.Transport{
		Source: oauth2.ReuseTokenSource(nil, &loginSource{login}),
		Base:   base,
	}}

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

func Example_httpClient() {
	srv := tokentest.Start()
	defer srv.Close()
	ctx := context.Background()
	config := &clientcredentials.Config{ClientID: srv.ClientID, ClientSecret: srv.ClientSecret, TokenURL: srv.TokenURL()}
	pool := http.DefaultTransport.(*http.Transport).Clone()

	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: pool, Timeout: 5 * time.Second})
	client := config.Client(ctx)

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

func loginTo(srv *tokentest.Server) func() (string, time.Time, error) {
	grant := &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}
	return func() (string, time.Time, error) {
		t, err := grant.Token(context.Background(), nil)
		if err != nil {
			return "", time.Time{}, err
		}
		return t.AccessToken, t.Expiry, nil
	}
}
