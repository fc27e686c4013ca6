package tokentripper_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A service calls an API in its own name. The server revokes the token between
// the two requests; the second is refused, gets a new token and is sent again.
func Example_clientCredentials() {
	srv := tokentest.Start() // stands for your authorization server and your API
	defer srv.Close()

	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		}},
	}}

	for range 2 {
		resp, err := client.Post(srv.APIURL(), "text/plain", strings.NewReader("hello"))
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
		srv.RevokeAccess()
	}
	fmt.Println("refused:", srv.Counts().Refused)
	// Output:
	// 200 OK
	// 200 OK
	// refused: 1
}

// A program acts for a user who logged in once. Each refresh token works once. The next
// one is saved before its access token is used, so that the program can stop at any
// moment and go on later.
func Example_refreshToken() {
	srv := tokentest.Start()
	defer srv.Close()
	login := srv.RefreshToken() // what the user's login gave
	dir, err := os.MkdirTemp("", "tokentripper")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "token.json")

	// save replaces the file as a whole: it holds the old token or the new one.
	save := func(token *tokensource.Token) error {
		data, err := tokensource.Marshal(token)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}

	start := func() *http.Client {
		grant := &tokensource.RefreshToken{
			Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
			RefreshToken: login,
		}
		cache := &tokensource.Cache{
			Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				token, err := grant.Token(ctx, old)
				if err != nil {
					return nil, err
				}
				if err := save(token); err != nil {
					log.Print("the next start will need a login: ", err)
				}
				return token, nil // it works here, saved or not, and the one before is spent
			}),
		}
		if data, err := os.ReadFile(path); err == nil {
			token, err := tokensource.Unmarshal(data)
			if err != nil {
				log.Fatal(err)
			}
			if err := cache.Set(context.Background(), token); err != nil {
				log.Fatal(err)
			}
		}
		return &http.Client{Transport: &transport.Auth{Source: cache}}
	}

	for range 2 { // the program runs twice
		client := start()
		for range 2 {
			resp, err := client.Get(srv.APIURL())
			if err != nil {
				log.Fatal(err)
			}
			resp.Body.Close()
			fmt.Println(resp.Status)
			srv.RevokeAccess()
		}
	}
	fmt.Println("refreshes:", srv.Counts().Rotations)
	fmt.Println("refresh tokens used twice:", srv.Counts().Reuses)
	// Output:
	// 200 OK
	// 200 OK
	// 200 OK
	// 200 OK
	// refreshes: 4
	// refresh tokens used twice: 0
}

// fromCamelCase translates the reply of a login API to that of RFC 6749.
func fromCamelCase(body []byte) ([]byte, error) {
	var r struct {
		AccessToken, RefreshToken string
		ExpiresIn                 int
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"access_token": r.AccessToken, "refresh_token": r.RefreshToken, "expires_in": r.ExpiresIn})
}

// A user logs in at a login API with its own JSON, which answers 403 to an expired token
// and to a dead refresh token. When a login is needed, requests fail with
// ErrReauthenticate until Set.
func Example_loginAPI() {
	srv := tokentest.Start()
	defer srv.Close()

	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{
		Endpoint: tokensource.Endpoint{
			URL:         srv.RefreshURL(),
			RequestJSON: func(form url.Values) any { return map[string]string{"refreshToken": form.Get("refresh_token")} },
			ReplyJSON:   fromCamelCase,
		},
		Final: func(refusal *tokensource.EndpointError) bool { return refusal.StatusCode == http.StatusForbidden },
	}}
	client := &http.Client{Transport: &transport.Auth{
		Source:  cache,
		Refused: transport.UnauthorizedOrForbidden,
	}}
	login := func(ctx context.Context, username, password string) error {
		endpoint := tokensource.Endpoint{
			URL: srv.LoginURL(),
			RequestJSON: func(form url.Values) any {
				return map[string]string{"username": form.Get("username"), "password": form.Get("password")}
			},
			ReplyJSON: fromCamelCase,
		}
		token, err := endpoint.Exchange(ctx, url.Values{"username": {username}, "password": {password}})
		if err != nil {
			return err
		}
		return cache.Set(ctx, token)
	}

	get := func() {
		resp, err := client.Get(srv.LegacyURL())
		if errors.Is(err, tokensource.ErrReauthenticate) {
			fmt.Println("login")
			if err := login(context.Background(), srv.Username, srv.Password); err != nil {
				log.Fatal(err)
			}
			resp, err = client.Get(srv.LegacyURL())
		}
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	get()
	srv.RevokeAccess() // the access token is answered with 403 from now on
	get()
	srv.RevokeAll() // the refresh token, too
	get()
	// Output:
	// login
	// 200 OK
	// 200 OK
	// login
	// 200 OK
}

// A service logs in with a password from its configuration. The Cache has it log in
// once, however many requests wait for the token.
func Example_password() {
	srv := tokentest.Start()
	defer srv.Close()

	login := tokensource.Endpoint{
		URL: srv.LoginURL(),
		RequestJSON: func(url.Values) any {
			return map[string]string{"username": srv.Username, "password": srv.Password}
		},
		ReplyJSON: fromCamelCase,
	}
	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{
			Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
				return login.Exchange(ctx, nil)
			}),
		},
		Refused: transport.UnauthorizedOrForbidden,
	}}

	for range 2 {
		resp, err := client.Get(srv.LegacyURL())
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
		srv.RevokeAll()
	}
	// Output:
	// 200 OK
	// 200 OK
}

// A logger is a RoundTripper like those that you may have already. It logs no
// headers: below Auth, they hold the token.
type logger struct {
	name string
	base http.RoundTripper
}

func (l *logger) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	fmt.Println(l.name, req.Method, resp.StatusCode)
	return resp, nil
}

// Layers above Auth see the caller's requests and their final answers: tracing of
// operations, limits, retries. Layers below Auth see each attempt, with its token: the
// wire log, metrics of the server, a proxy, TLS.
//
// A layer above that builds new requests, as retries do, hides from Auth whether
// the request was redirected. Then Origins says where the token may go.
func Example_composition() {
	srv := tokentest.Start()
	defer srv.Close()

	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{
			URL:          srv.TokenURL(),
			ClientID:     srv.ClientID,
			ClientSecret: srv.ClientSecret,
		},
	}}
	auth := &transport.Auth{
		Source:  source,
		Base:    &logger{"  attempt:", http.DefaultTransport},
		Origins: []string{srv.URL},
	}
	client := &http.Client{Transport: &logger{"request:", auth}}

	for range 2 {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		srv.RevokeAccess()
	}
	// Output:
	//   attempt: GET 200
	// request: GET 200
	//   attempt: GET 401
	//   attempt: GET 200
	// request: GET 200
}

// A proxy that adds its token to the requests of its clients, also to uploads of unknown
// length. Every client acts with this token, so admit only clients that may.
func Example_reverseProxy() {
	srv := tokentest.Start()
	defer srv.Close()
	api, err := url.Parse(srv.URL)
	if err != nil {
		log.Fatal(err)
	}

	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(api)
			r.Out.Header.Del("Authorization") // Auth passes a request that has one untouched
		},
		Transport: &transport.Auth{
			Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
				Endpoint: tokensource.Endpoint{
					URL:          srv.TokenURL(),
					ClientID:     srv.ClientID,
					ClientSecret: srv.ClientSecret,
				},
			}},
			MaxBody:   1 << 20,  // a refused upload of 1 MiB is sent again
			MaxMemory: 50 << 20, // also 50 of them at a time
		},
	})
	defer proxy.Close()

	for range 2 {
		upload := io.LimitReader(strings.NewReader("hello, world"), 5)
		resp, err := http.Post(proxy.URL+"/api", "text/plain", upload)
		if err != nil {
			log.Fatal(err)
		}
		var answer struct{ Length int }
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		fmt.Println(resp.Status, answer.Length, err)
		srv.RevokeAccess()
	}
	// Output:
	// 200 OK 5 <nil>
	// 200 OK 5 <nil>
}

// newClient is your own code.
func newClient(tokenURL, clientID, refreshToken string) *http.Client {
	return &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.RefreshToken{
			Endpoint:     tokensource.Endpoint{URL: tokenURL, ClientID: clientID},
			RefreshToken: refreshToken,
		}},
	}}
}

// A test of your own client: what it does when its token is revoked.
func TestAClientSurvivesARevocation(t *testing.T) {
	srv := tokentest.NewServer(t)
	client := newClient(srv.TokenURL(), srv.ClientID, srv.RefreshToken())
	for range 2 {
		if resp, err := client.Get(srv.APIURL()); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("got %v, error %v; want 200", resp, err)
		}
		srv.RevokeAccess()
	}
	if n := srv.Counts().TokenRequests; n != 2 {
		t.Errorf("got %d token requests; want 2", n)
	}
}

// How a client behaves when all its requests are refused at once.
func Example_testing() {
	srv := tokentest.Start()
	defer srv.Close()
	srv.SetLatency(20 * time.Millisecond) // time for the others to be refused
	client := newClient(srv.TokenURL(), srv.ClientID, srv.RefreshToken())

	var group sync.WaitGroup
	var failed atomic.Int32
	get := func() {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			failed.Add(1)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			failed.Add(1)
		}
	}
	get()
	srv.RevokeAccess()
	for range 50 {
		group.Go(get)
	}
	group.Wait()

	fmt.Println("failed:", failed.Load())
	fmt.Println("token requests:", srv.Counts().TokenRequests)
	// Output:
	// failed: 0
	// token requests: 2
}
