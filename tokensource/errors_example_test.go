package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// What a token endpoint says when it refuses a request, and what it is if a proxy answers.
func ExampleEndpointError() {
	srv := tokentest.Start() // stands for an authorization server
	defer srv.Close()
	srv.Fail(tokentest.Failure{Status: 429, RetryAfter: "30", Body: `{"error":"slow_down","error_description":"too many logins"}`})
	srv.Fail(tokentest.Failure{Status: 502, ContentType: "text/html", Body: "<html>Bad gateway</html>"})

	source := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
	}}
	for range 2 {
		_, err := source.Token(context.Background(), nil)
		if e, ok := errors.AsType[*tokensource.EndpointError](err); ok {
			fmt.Println(e.StatusCode, e.RetryAfter, e.Err)
			fmt.Printf("%q %q %q\n", e.Code, e.Description, e.URI)
		}
	}
	// Output:
	// 429 30s <nil>
	// "slow_down" "too many logins" ""
	// 502 0s reply: markup, neither JSON nor a form
	// "" "" ""
}

// A login API of your own that limits the rate of logins and says when to refresh.
func ExampleFunc() {
	login := func(ctx context.Context) (*http.Response, error) { // sends the request
		return &http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"20"}}, Body: http.NoBody}, nil
	}
	source := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		resp, err := login(ctx)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		var reply struct{ Token string }
		switch {
		case resp.StatusCode == http.StatusForbidden: // the password has changed
			return nil, tokensource.ErrReauthenticate
		case resp.StatusCode != http.StatusOK: // the Cache waits as long as the server demands
			wait, _ := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
			return nil, &tokensource.EndpointError{StatusCode: resp.StatusCode, RetryAfter: wait}
		}
		if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
			return nil, err
		}
		now := time.Now()
		return &tokensource.Token{AccessToken: reply.Token, Expiry: now.Add(time.Hour), RefreshAt: now.Add(50 * time.Minute)}, nil
	})
	cache := &tokensource.Cache{
		Source:   source,
		Patience: -1, // return each failure, do not wait for the next attempt
	}
	_, err := cache.Token(context.Background(), nil)
	fmt.Println(err)
	// Output: tokensource: the token endpoint answered 429
}

// Refreshes that made callers wait are worth a metric. Callers do not notice early ones.
func ExampleRefresh() {
	done := make(chan bool)
	cache := &tokensource.Cache{
		Source: tokensource.Static(&tokensource.Token{AccessToken: "token"}),
		OnRefresh: func(r tokensource.Refresh) {
			switch r.Cause {
			case tokensource.Early:
			case tokensource.Expired, tokensource.Refused:
				fmt.Println(r.Cause, r.Waiters, r.Err, "slow:", r.Duration > time.Minute)
			}
			close(done)
		},
	}
	if _, err := cache.Token(context.Background(), nil); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output: expired 1 <nil> slow: false
}

// A page that shows whether a user is logged in must not cause a refresh.
func ExampleCache_Peek() {
	ctx := context.Background()
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{}}
	fmt.Println(cache.Peek(ctx, nil) != nil)
	first := &tokensource.Token{AccessToken: "from-the-login", Scope: "reports"}
	if err := cache.Set(ctx, first); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cache.Peek(ctx, nil) != nil)

	// Later the server sends a new token, for example over a WebSocket.
	if err := cache.Replace(ctx, first, &tokensource.Token{AccessToken: "from-the-server"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cache.Peek(ctx, first) != nil)
	// Output:
	// false
	// true
	// true
}

// A Token shows no secret when it is printed. Marshal is for places that keep secrets.
func ExampleToken() {
	token := &tokensource.Token{
		AccessToken:  "secret",
		RefreshToken: "secret, too",
		Scope:        "reports",
		Extra:        map[string]json.RawMessage{"instance_url": json.RawMessage(`"https://eu.example.com"`)},
	}
	fmt.Println(token)
	fmt.Println(token.Scope, string(token.Extra["instance_url"]))
	text, err := tokensource.Marshal(token)
	if err != nil {
		log.Fatal(err)
	}
	again, err := tokensource.Unmarshal(text)
	fmt.Println(again.AccessToken == token.AccessToken, err)
	// Output:
	// Bearer token [redacted]
	// reports "https://eu.example.com"
	// true <nil>
}

// A switchable is a store that can be unavailable.
type switchable struct {
	storetest.Memory
	away bool
}

func (s *switchable) Load(ctx context.Context, key string) ([]byte, error) {
	if s.away {
		return nil, errors.New("no route to host")
	}
	return s.Memory.Load(ctx, key)
}

func (s *switchable) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if s.away {
		return errors.New("no route to host")
	}
	return s.Memory.Update(ctx, key, fn)
}

// Before a process ends, it saves what no other process knows, such as a login during an
// outage of the store.
func ExampleStored_Pending() {
	ctx := context.Background()
	store := &switchable{away: true}
	stored := &tokensource.Stored{Source: &tokensource.RefreshToken{}, Store: store, Key: "user-1234"}
	err := stored.Set(ctx, &tokensource.Token{RefreshToken: "from-the-login"})
	failure, _ := errors.AsType[*tokensource.StoreError](err)
	fmt.Println(failure.Op, "of", failure.Key, "failed:", failure.Err)
	fmt.Println("pending:", stored.Pending())

	store.away = false
	if stored.Pending() { // before the process ends
		err = stored.Look(ctx)
	}
	fmt.Println(err, "pending:", stored.Pending())
	// Output:
	// update of user-1234.dc6a95fa0bd6a9db failed: no route to host
	// pending: true
	// <nil> pending: false
}

// A login page runs beside the service that sends the requests. Through the Store, the
// service gets its logins, the tokens that a server sent it, and its logouts.
func ExampleStored_Set() {
	ctx := context.Background()
	store := new(storetest.Memory) // stands for a Store that both share
	open := func() *tokensource.Stored {
		return &tokensource.Stored{Source: &tokensource.RefreshToken{}, Store: store, Key: "user-1234"}
	}
	page, service := open(), &tokensource.Cache{Source: open()}

	login := &tokensource.Token{AccessToken: "from-the-login", TokenType: "Bearer", RefreshToken: "secret"}
	if err := page.Set(ctx, login); err != nil {
		log.Fatal(err)
	}
	token, err := service.Token(ctx, nil)
	fmt.Println(token.AccessToken, err)

	if err := page.Replace(ctx, login, &tokensource.Token{AccessToken: "from-the-server"}); err != nil {
		log.Fatal(err)
	}
	token, err = service.Token(ctx, token) // when the server refuses the first
	fmt.Println(token.AccessToken, err)

	if err := page.Forget(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = service.Token(ctx, token)
	fmt.Println("a login is needed:", errors.Is(err, tokensource.ErrReauthenticate))
	// Output:
	// from-the-login <nil>
	// from-the-server <nil>
	// a login is needed: true
}

// Replicas share the token of the service itself, which saves token requests. While the
// store fails, each obtains tokens of its own.
func ExampleStored_unshared() {
	srv := tokentest.Start()
	defer srv.Close()
	source := &tokensource.Stored{
		Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
		}},
		Store:    &switchable{away: true},
		Key:      "service",
		Timeout:  5 * time.Second,
		Unshared: true,
	}
	token, err := source.Token(context.Background(), nil)
	fmt.Println(token != nil, err)
	// Output: true <nil>
}

// A client that knows only the API. The URL comes from the resource_metadata of a
// challenge (RFC 9728).
func ExampleIssuer_resource() {
	srv := tokentest.Start() // stands for the authorization server
	defer srv.Close()
	var api *httptest.Server
	api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"resource": %q, "authorization_servers": [%q]}`, api.URL, srv.URL)
	}))
	defer api.Close()

	source := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		Issuer:       &tokensource.Issuer{Resource: api.URL + "/.well-known/oauth-protected-resource"},
		ClientID:     srv.ClientID,
		ClientSecret: srv.ClientSecret,
	}}
	token, err := source.Token(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(srv.Check(token.AccessToken))
	// Output: <nil>
}
