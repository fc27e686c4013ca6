package oauth2source_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/oauth2source"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A program has an oauth2.Config and the token of a login. Its client, which was
// config.Client(ctx, token), now gets another token when the API refuses one.
func Example() {
	srv := tokentest.Start() // stands for your authorization server and your API
	defer srv.Close()
	ctx := context.Background()
	config := &oauth2.Config{ClientID: srv.ClientID, Endpoint: oauth2.Endpoint{TokenURL: srv.TokenURL()}}
	token := &oauth2.Token{RefreshToken: srv.RefreshToken()} // as config.Exchange returns it

	cache := &tokensource.Cache{Source: oauth2source.RefreshToken(ctx, config)}
	if err := cache.Set(ctx, oauth2source.Token(token)); err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &transport.Auth{Source: cache}}

	pages.Status(client.Get(srv.APIURL()))
	srv.RevokeAccess()
	pages.Status(client.Get(srv.APIURL()))
	// Output:
	// 200 OK
	// 200 OK
}

// Refresh tokens that rotate are saved, and shared by all processes that use the store.
func ExampleRefreshToken() {
	srv := tokentest.Start()
	defer srv.Close()
	ctx := context.Background()
	config := &oauth2.Config{ClientID: srv.ClientID, Endpoint: oauth2.Endpoint{TokenURL: srv.TokenURL()}}
	token := &oauth2.Token{RefreshToken: srv.RefreshToken()}
	store := new(storetest.Memory) // stands for filestore, pgstore or redisstore

	grant := oauth2source.RefreshToken(ctx, config)
	grant.RefreshToken = token.RefreshToken
	for range 2 { // two processes
		cache := &tokensource.Cache{Source: &tokensource.Stored{Source: grant, Store: store, Key: "reports"}}
		pages.Status((&http.Client{Transport: &transport.Auth{Source: cache}}).Get(srv.APIURL()))
	}
	fmt.Println("rotations:", srv.Counts().Rotations)
	// Output:
	// 200 OK
	// 200 OK
	// rotations: 1
}

func ExampleClientCredentials() {
	srv := tokentest.Start()
	defer srv.Close()
	config := &clientcredentials.Config{
		ClientID: srv.ClientID, ClientSecret: srv.ClientSecret, TokenURL: srv.TokenURL(),
		EndpointParams: url.Values{"audience": {"https://api.example.com"}},
	}

	cache := &tokensource.Cache{Source: oauth2source.ClientCredentials(context.Background(), config)}
	client := &http.Client{Transport: &transport.Auth{Source: cache}}

	pages.Status(client.Get(srv.APIURL()))
	// Output: 200 OK
}

// The other members of the login's reply are kept if they are named.
func ExampleToken() {
	login := (&oauth2.Token{RefreshToken: "secret"}).WithExtra(map[string]any{"scope": "reports", "id_token": "eyJ"})

	token := oauth2source.Token(login, "id_token")
	fmt.Println(token.Scope, string(token.Extra["id_token"]))
	// Output: reports "eyJ"
}

// A TokenSource of your own, or of another library. Take one that obtains a token with
// each call: the Cache keeps it. A source with a cache of its own has no other token
// when the API refuses the cached one.
func ExampleToken_source() {
	srv := tokentest.Start()
	defer srv.Close()
	var theirs oauth2.TokenSource = loginSource{srv}

	source := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		t, err := theirs.Token()
		return oauth2source.Token(t), err
	})
	client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: source}}}

	pages.Status(client.Get(srv.APIURL()))
	srv.RevokeAccess()
	pages.Status(client.Get(srv.APIURL()))
	// Output:
	// 200 OK
	// 200 OK
}

// A loginSource logs in with each call.
type loginSource struct{ srv *tokentest.Server }

func (s loginSource) Token() (*oauth2.Token, error) {
	config := &clientcredentials.Config{ClientID: s.srv.ClientID, ClientSecret: s.srv.ClientSecret, TokenURL: s.srv.TokenURL()}
	return config.Token(context.Background())
}

// An SDK wants an oauth2.TokenSource. Its errors are those that the SDK looks for, and
// still those of this library.
func ExampleTokenSource() {
	srv := tokentest.Start()
	defer srv.Close()
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
		RefreshToken: srv.RefreshToken(),
	}}

	var source oauth2.TokenSource = oauth2source.TokenSource(context.Background(), cache)
	sdk := &http.Client{Transport: &oauth2.Transport{Source: source}} // stands for an SDK

	pages.Status(sdk.Get(srv.APIURL()))
	if err := cache.Forget(context.Background()); err != nil {
		log.Fatal(err)
	}
	_, err := sdk.Get(srv.APIURL())
	refusal, _ := errors.AsType[*oauth2.RetrieveError](err)
	fmt.Println(refusal.Response.StatusCode, refusal.ErrorCode, errors.Is(err, tokensource.ErrReauthenticate))
	// Output:
	// 200 OK
	// 400 invalid_grant true
}
