package tokensource_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// keyPEM is a private key as it lies in a file or a secret.
var keyPEM = func() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		log.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}()

// An API that trusts a service's key needs no token endpoint: the service signs
// its tokens itself. A Cache over it signs a new token only when the last one is about
// to expire.
func ExampleSignedJWT() {
	key, err := tokensource.ParsePrivateKey(keyPEM)
	if err != nil {
		log.Fatal(err)
	}
	source := &tokensource.Cache{Source: &tokensource.SignedJWT{
		Key:       key,
		KeyID:     "2026-11",
		Algorithm: "ES256", // the default of this key
		Issuer:    "reports",
		Audience:  []string{"https://api.example.com"},
		Lifetime:  time.Minute,
		Claims:    map[string]any{"scope": "read"},
		Header:    map[string]any{"typ": "at+jwt"},
	}}

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		token, err := jwt.Parse(bearer, func(*jwt.Token) (any, error) { return key.Public(), nil })
		claims := token.Claims.(jwt.MapClaims)
		fmt.Println(token.Header["alg"], token.Header["kid"], claims["iss"], claims["scope"], err)
	}))
	defer api.Close()
	client := &http.Client{Transport: &transport.Auth{Source: source}}
	if _, err := client.Get(api.URL); err != nil {
		log.Fatal(err)
	}
	// Output: ES256 2026-11 reports read <nil>
}

// A client that authenticates by a signed assertion instead of a secret
// (private_key_jwt). This works with every grant, because every grant has an Endpoint.
func ExampleEndpoint_ClientAssertion() {
	srv := tokentest.Start()
	defer srv.Close()
	key, err := tokensource.ParsePrivateKey(keyPEM)
	if err != nil {
		log.Fatal(err)
	}
	srv.TrustKey(key.Public())

	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{
			URL:      srv.TokenURL(),
			ClientID: srv.ClientID,
			ClientAssertion: &tokensource.SignedJWT{
				Key:      key,
				Issuer:   srv.ClientID,
				Subject:  srv.ClientID,
				Audience: []string{srv.TokenURL()},
			},
			Params: url.Values{"audience": {"https://api.example.com"}},
		},
	}}
	token, err := source.Token(context.Background(), nil)
	fmt.Println(token != nil, err)
	// Output: true <nil>
}

// A server that takes the secret only in the form.
func ExampleClientCredentials() {
	srv := tokentest.Start()
	defer srv.Close()
	source := &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{
			URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret,
			ClientSecretPost: true,
		},
		Scopes: []string{"reports"},
	}}
	token, err := source.Token(context.Background(), nil)
	fmt.Println(token != nil, err)
	// Output: true <nil>
}

// The authorization server trusts a key of the service, and issues tokens for the users
// that the service names.
func ExampleJWTBearer() {
	srv := tokentest.Start()
	defer srv.Close()
	key, err := tokensource.ParsePrivateKey(keyPEM)
	if err != nil {
		log.Fatal(err)
	}
	srv.TrustKey(key.Public())

	source := &tokensource.Cache{Source: &tokensource.JWTBearer{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL()},
		Assertion: &tokensource.SignedJWT{
			Key:      key,
			Issuer:   "reports",
			Subject:  "alice",
			Audience: []string{srv.TokenURL()},
		},
		Scopes: []string{"reports"},
	}}
	token, err := source.Token(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	subject, _, err := srv.Subject(token.AccessToken)
	fmt.Println(subject, err)
	// Output: alice <nil>
}

// userKey is where a handler puts the user's token into the request's context.
type userKey struct{}

func userToken(ctx context.Context) (string, error) {
	token, ok := ctx.Value(userKey{}).(string)
	if !ok {
		return "", errors.New("no user in the context")
	}
	return token, nil
}

// A service calls an API on behalf of its user: it exchanges the user's token for one
// that also names the service. Keyed keeps the exchanged token of each user. The key is
// the user's token itself, because it determines what Subject reads.
func ExampleTokenExchange() {
	srv := tokentest.Start()
	defer srv.Close()
	endpoint := tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret}

	exchange := &tokensource.TokenExchange{
		Endpoint: endpoint,
		Subject: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			token, err := userToken(ctx)
			return &tokensource.Token{AccessToken: token}, err
		}),
		SubjectType:   "urn:ietf:params:oauth:token-type:jwt",
		Actor:         &tokensource.Cache{Source: &tokensource.ClientCredentials{Endpoint: endpoint}},
		ActorType:     "urn:ietf:params:oauth:token-type:jwt",
		RequestedType: "urn:ietf:params:oauth:token-type:access_token",
		Scopes:        []string{"reports"},
	}
	source := &tokensource.Keyed[string]{
		Key: userToken,
		New: func(string) *tokensource.Cache { return &tokensource.Cache{Source: exchange} },
	}

	login := &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: srv.RefreshToken()}
	user, err := login.Token(context.Background(), nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.WithValue(context.Background(), userKey{}, user.AccessToken) // as the service's handler does
	token, err := source.Token(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	subject, actor, err := srv.Subject(token.AccessToken)
	fmt.Println(subject == srv.Username, actor == srv.ClientID, err)
	// Output: true true <nil>
}

// A token in a file that another program keeps fresh, as Kubernetes does. When the
// server refuses the token, the file is read again.
func ExampleFile() {
	dir, err := os.MkdirTemp("", "tokentripper")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "token") // such as /var/run/secrets/tokens/api
	write := func(token string) {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			log.Fatal(err)
		}
	}

	good := "token-1"
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.File{Path: path}},
	}}
	for _, token := range []string{"token-1", "token-2"} {
		write(token)
		good = token
		resp, err := client.Get(api.URL)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Status)
	}
	// Output:
	// 200 OK
	// 200 OK
}

// tenantName is where a handler puts the tenant into the request's context.
type tenantName struct{}

// A service that acts for many tenants, each with a client of its own.
func ExampleKeyed() {
	srv := tokentest.Start()
	defer srv.Close()
	secrets := map[string]string{"acme": srv.ClientSecret, "late payer": "revoked"}

	source := &tokensource.Keyed[string]{
		Key: func(ctx context.Context) (string, error) {
			tenant, ok := ctx.Value(tenantName{}).(string)
			if !ok {
				return "", errors.New("no tenant in the context")
			}
			return tenant, nil
		},
		New: func(tenant string) *tokensource.Cache {
			return &tokensource.Cache{Source: &tokensource.ClientCredentials{
				Endpoint: tokensource.Endpoint{
					URL:          srv.TokenURL(),
					ClientID:     srv.ClientID,
					ClientSecret: secrets[tenant],
				},
			}}
		},
	}
	client := &http.Client{Transport: &transport.Auth{Source: source}}

	for _, tenant := range []string{"acme", "late payer"} {
		ctx := context.WithValue(context.Background(), tenantName{}, tenant)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.APIURL(), nil)
		if err != nil {
			log.Fatal(err)
		}
		_, err = client.Do(req)
		refusal, _ := errors.AsType[*tokensource.EndpointError](err)
		fmt.Println(tenant, err == nil, refusal != nil && refusal.Code == "invalid_client")
	}
	// Output:
	// acme true false
	// late payer false true
}

// userName is where a handler puts the user's name into the request's context.
type userName struct{}

// A service that acts for many users. Each user logs in, and later logs out.
func ExampleKeyed_Set() {
	srv := tokentest.Start()
	defer srv.Close()
	users := &tokensource.Keyed[string]{
		Key: func(ctx context.Context) (string, error) {
			user, ok := ctx.Value(userName{}).(string)
			if !ok {
				return "", errors.New("no user in the context")
			}
			return user, nil
		},
		New: func(string) *tokensource.Cache {
			return &tokensource.Cache{Source: &tokensource.RefreshToken{
				Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
				Scopes:   []string{"reports"},
			}}
		},
		MaxKeys: 1, // a service has more
	}

	alice := context.WithValue(context.Background(), userName{}, "alice")
	if err := users.Set(alice, &tokensource.Token{RefreshToken: srv.RefreshToken()}); err != nil {
		log.Fatal(err)
	}
	token, err := users.Token(alice, nil) // as an Auth does
	fmt.Println(token != nil, err)

	bob := context.WithValue(context.Background(), userName{}, "bob")
	err = users.Set(bob, &tokensource.Token{RefreshToken: srv.RefreshToken()})
	fmt.Println("answer 503:", errors.Is(err, tokensource.ErrKeysFull))

	// The server sends a new token by itself, for example over a WebSocket.
	if err := users.Replace(alice, token, &tokensource.Token{AccessToken: "from-the-server"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(users.Peek(alice, token).AccessToken)

	if err := users.Forget(alice); err != nil {
		log.Fatal(err)
	}
	_, err = users.Token(alice, nil)
	fmt.Println("a login is needed:", errors.Is(err, tokensource.ErrReauthenticate))
	// Output:
	// true <nil>
	// answer 503: true
	// from-the-server
	// a login is needed: true
}

// Two processes share a refresh token that works once. Memory stands for the Store of
// filestore, pgstore or redisstore. Encrypted hides the tokens from it.
func ExampleStored() {
	srv := tokentest.Start()
	defer srv.Close()
	login := srv.RefreshToken()
	store := &tokensource.Encrypted{
		Store: new(storetest.Memory),
		Keys:  [][]byte{[]byte("32 random bytes from your secrets")[:32]},
	}

	start := func() *http.Client {
		return &http.Client{Transport: &transport.Auth{
			Source: &tokensource.Cache{Source: &tokensource.Stored{
				Source: &tokensource.RefreshToken{
					Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
					RefreshToken: login,
				},
				Store: store,
				Key:   "reports",
			}},
		}}
	}
	a, b := start(), start()
	for range 2 {
		for _, client := range []*http.Client{a, b} {
			resp, err := client.Get(srv.APIURL())
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(resp.Status)
		}
		srv.RevokeAccess()
	}
	fmt.Println("exchanges:", srv.Counts().Rotations, "refresh tokens used twice:", srv.Counts().Reuses)
	// Output:
	// 200 OK
	// 200 OK
	// 200 OK
	// 200 OK
	// exchanges: 2 refresh tokens used twice: 0
}

// Before an old encryption key can go, each value is saved again with the new one, which
// is the first in Keys.
func ExampleEncrypted() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	database := new(storetest.Memory) // stands for a Store like pgstore's
	with := func(keys ...[]byte) *tokensource.Encrypted {
		return &tokensource.Encrypted{Store: database, Keys: keys}
	}
	oldKey, newKey := make([]byte, 32), []byte("32 random bytes from your secrets")[:32]
	err := with(oldKey).Update(ctx, "user-1", func(_ []byte, save func([]byte) error) error {
		return save([]byte("a token"))
	})
	if err != nil {
		log.Fatal(err)
	}

	for _, name := range []string{"user-1", "user-2"} { // the keys in the database
		err := with(newKey, oldKey).Update(ctx, name, func(value []byte, save func([]byte) error) error {
			if value == nil {
				return nil // none was saved
			}
			return save(value)
		})
		if errors.Is(err, tokensource.ErrLocked) {
			fmt.Println(name, "is in use, try again later")
		} else if err != nil {
			log.Fatal(err)
		}
	}
	value, err := with(newKey).Load(ctx, "user-1")
	fmt.Println(string(value), err)
	// Output: a token <nil>
}
