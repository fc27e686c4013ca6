package transport_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

var (
	p256        = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A shownKey shows its public half, and cannot sign.
type shownKey struct{ public crypto.PublicKey }

func (k shownKey) Public() crypto.PublicKey { return k.public }
func (shownKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the HSM is away")
}

// proofClaims are what the proof of a request says; its signature is not checked.
func proofClaims(req *http.Request) jwt.MapClaims {
	claims := jwt.MapClaims{}
	jwt.NewParser().ParseUnverified(req.Header.Get("DPoP"), claims)
	return claims
}

// summedBody reads a body to its end.
func summedBody(r io.Reader) (int64, string) {
	hash := sha256.New()
	n, err := io.Copy(hash, r)
	return n, fmt.Sprintf("%x %v", hash.Sum(nil), err)
}

// caught answers 200 and keeps the last request.
func caught(last **http.Request) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		*last = req
		if req.Body != nil {
			req.Body.Close()
		}
		return httptest.NewRecorder().Result(), nil
	}
}

func TestTheThumbprintIsThatOfRFC9449(t *testing.T) {
	point := []byte{4}
	for _, coordinate := range []string{"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"} {
		point = append(point, must(base64.RawURLEncoding.DecodeString(coordinate))...)
	}
	key := shownKey{must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point))}
	got, err := (&transport.DPoP{Key: key}).Thumbprint()
	if want := "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"; got != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestTheHashOfTheTokenIsThatOfRFC9449(t *testing.T) {
	var last *http.Request
	dpop := &transport.DPoP{Key: p256, Base: caught(&last)}
	token := &tokensource.Token{TokenType: "DPoP", AccessToken: "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"}
	if err := ok(t, &transport.Auth{Source: tokensource.Static(token), Base: dpop}); err != nil {
		t.Fatal(err)
	}
	if got, want := proofClaims(last)["ath"], "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"; got != want {
		t.Errorf("got ath %v, want %s", got, want)
	}
	if got, want := last.Header.Get("Authorization"), "DPoP "+token.AccessToken; got != want {
		t.Errorf("got Authorization %q, want %q", got, want)
	}
}

func TestAProofIsAboutItsRequestAndSignedByTheKeyThatItShows(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"ES256": p256, "EdDSA": edKey} {
		var last *http.Request
		dpop := &transport.DPoP{Key: key, Base: caught(&last)}
		req, _ := http.NewRequest("PUT", "HTTPS://API.Example.com:443/a%2Fb/%C3%BC?q=1#f", nil)
		dpop.RoundTrip(req)
		proof, err := jwt.Parse(last.Header.Get("DPoP"), func(*jwt.Token) (any, error) { return key.Public(), nil })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		claims := proof.Claims.(jwt.MapClaims)
		if proof.Header["typ"] != "dpop+jwt" || proof.Header["alg"] != name || proof.Header["jwk"] == nil {
			t.Errorf("%s: got the header %v", name, proof.Header)
		}
		if claims["htm"] != "PUT" || claims["htu"] != "https://api.example.com/a%2Fb/%C3%BC" || claims["iat"] == nil {
			t.Errorf("%s: got the claims %v", name, claims)
		}
		if claims["ath"] != nil || claims["nonce"] != nil {
			t.Errorf("%s: got %v without a token and a nonce", name, claims)
		}
	}
}

func TestTheTargetIsWhatTheServerSees(t *testing.T) {
	for _, c := range []struct{ url, host, want string }{
		{"http://localhost:80", "", "http://localhost/"},
		{"https://a.example?x", "", "https://a.example/"},
		{"https://10.0.0.1/x", "Virtual.example", "https://virtual.example/x"},
		{"https://u:p@a.example/x/../y", "", "https://a.example/x/../y"},
		{"https://[::1]:8443/%7E", "", "https://[::1]:8443/%7E"},
		{"http://[fe80::1%25en0]:8080/x", "", "http://[fe80::1]:8080/x"}, // net/http removes the zone from Host
		{"http://[fe80::1%25en0]/x", "", "http://[fe80::1]/x"},
	} {
		var last *http.Request
		req, _ := http.NewRequest("", c.url, nil)
		req.Host, req.Method = c.host, ""
		(&transport.DPoP{Key: p256, Base: caught(&last)}).RoundTrip(req)
		if got := proofClaims(last); got["htu"] != c.want || got["htm"] != "GET" {
			t.Errorf("%s: got %v %v, want GET %s", c.url, got["htm"], got["htu"], c.want)
		}
	}
}

func TestEachRequestHasAProofOfItsOwn(t *testing.T) {
	seen := map[any]bool{}
	var last *http.Request
	dpop := &transport.DPoP{Key: edKey, Base: caught(&last)}
	for range 100 {
		ok(t, dpop)
		seen[proofClaims(last)["jti"]] = true
	}
	if len(seen) != 100 || seen[nil] {
		t.Errorf("got %d different jti, want 100", len(seen))
	}
}

// unsent fails the test if something is sent.
func unsent(t *testing.T) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return httptest.NewRecorder().Result(), nil
	}
}

func TestAWrongKeyIsAnErrorThatNamesItAndNothingIsSent(t *testing.T) {
	for want, key := range map[string]crypto.Signer{
		"the key is nil":              nil,
		"the key is nil or empty":     (*ecdsa.PrivateKey)(nil),
		"RS256 is not supported":      must(rsa.GenerateKey(rand.Reader, 2048)),
		"ES384 is not supported":      must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"the key did not sign: the H": shownKey{p256.Public()},
	} {
		body := &bodyOf{Reader: strings.NewReader("x")}
		closedOnce(t, body)
		dpop := &transport.DPoP{Key: key, Base: unsent(t)}
		_, err := dpop.RoundTrip(postBody(t, "https://api.example", body))
		failed, is := errors.AsType[*transport.Error](err)
		if !is || failed.StatusCode != 0 || !strings.Contains(err.Error(), "DPoP.Key: "+want) {
			t.Errorf("got %v, want an Error that has DPoP.Key: %s", err, want)
		}
	}
}

func TestTheThumbprintOfAWrongKeyIsAnError(t *testing.T) {
	if got, err := new(transport.DPoP).Thumbprint(); got != "" || err == nil || !strings.Contains(err.Error(), "DPoP.Key") {
		t.Errorf("got %q and %v, want an error that names DPoP.Key", got, err)
	}
}

func TestABoundTokenIsNotSentWithoutAProofNorAnotherWithOne(t *testing.T) {
	for _, c := range []struct {
		kind string
		base http.RoundTripper
		want string
	}{
		{"DPoP", unsent(t), "without a proof"},
		{"dpop", unsent(t), "without a proof"},
		{"Bearer", &transport.DPoP{Key: p256, Base: unsent(t)}, "not of type DPoP"},
		{"", &transport.DPoP{Key: p256, Base: unsent(t)}, "not of type DPoP"},
	} {
		source := tokensource.Static(&tokensource.Token{AccessToken: "a", TokenType: c.kind})
		err := ok(t, &transport.Auth{Source: source, Base: c.base})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("type %q over %T: got %v, want an error that has %q", c.kind, c.base, err, c.want)
		}
	}
}

func TestASourceThatGivesNeitherTokenNorErrorFailsTheRequest(t *testing.T) {
	for _, base := range []http.RoundTripper{unsent(t), &transport.DPoP{Key: p256, Base: unsent(t)}} {
		err := ok(t, &transport.Auth{Source: tokensource.Static(nil), Base: base})
		if e, is := errors.AsType[*transport.Error](err); !is || e.StatusCode != 0 || e.Err == nil {
			t.Errorf("over %T: got %v, want an Error and nothing sent", base, err)
		}
	}
}

func TestAProofOfTheCallersPasses(t *testing.T) {
	for _, spelling := range []string{"Dpop", "DPoP", "dpop"} {
		var last *http.Request
		req := postBody(t, "https://api.example", nil)
		req.Header[spelling] = []string{"own"}
		(&transport.DPoP{Base: caught(&last)}).RoundTrip(req)
		if got := last.Header[spelling]; last != req || len(got) != 1 || got[0] != "own" {
			t.Errorf("got %q in another request: %t, want the caller's own %s", got, last != req, spelling)
		}
	}
}

// A tally is a base that counts how often each request is sent, by its
// X-Request, and how often each jti.
type tally struct {
	base http.RoundTripper

	mu       sync.Mutex // guards what follows
	attempts map[string]int
	proofs   map[string]int
}

func (c *tally) RoundTrip(req *http.Request) (*http.Response, error) {
	jti, _ := proofClaims(req)["jti"].(string)
	c.mu.Lock()
	c.attempts[req.Header.Get("X-Request")]++
	c.proofs[jti]++
	c.mu.Unlock()
	return c.base.RoundTrip(req)
}

func (c *tally) wantAtMost(t *testing.T, attempts int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.attempts {
		if n > attempts && name != "" {
			t.Errorf("request %s was sent %d times, want at most %d", name, n, attempts)
		}
	}
	for jti, n := range c.proofs {
		if n > 1 || jti == "" {
			t.Errorf("a jti was sent %d times: %q", n, jti)
		}
	}
}

// dpopClient is a client over a server that demands proofs and nonces at both
// of its endpoints. One key, two transports: the token endpoint's and the API's.
func dpopClient(t *testing.T, srv *tokentest.Server, grant func(tokensource.Endpoint) tokensource.Source) (*http.Client, *tally) {
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	base := &tally{base: http.DefaultTransport, attempts: map[string]int{}, proofs: map[string]int{}}
	endpoint := tokensource.Endpoint{
		URL:      srv.TokenURL(),
		ClientID: srv.ClientID,
		Client:   &http.Client{Transport: &transport.DPoP{Key: p256, Base: base}},
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: grant(endpoint)},
		Base:   &transport.DPoP{Key: p256, Base: base},
	}}, base
}

// send posts a body that cannot be read twice, and checks that it came whole.
func send(client *http.Client, srv *tokentest.Server, name string) error {
	data, sum := noise(10_000)
	req, err := http.NewRequest("POST", srv.APIURL()+"?q="+name, data)
	if err != nil {
		return err
	}
	req.Header.Set("X-Request", name)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct{ SHA256 string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.SHA256+" <nil>" != sum {
		return fmt.Errorf("%s: status %d, %s arrived, want %s, error %v", name, resp.StatusCode, answer.SHA256, sum, err)
	}
	return nil
}

// grants that get bound tokens.
func boundGrants(srv *tokentest.Server) map[string]func(tokensource.Endpoint) tokensource.Source {
	return map[string]func(tokensource.Endpoint) tokensource.Source{
		"client credentials": func(e tokensource.Endpoint) tokensource.Source {
			e.ClientSecret = srv.ClientSecret
			return &tokensource.ClientCredentials{Endpoint: e}
		},
		"refresh token": func(e tokensource.Endpoint) tokensource.Source {
			return &tokensource.RefreshToken{Endpoint: e, RefreshToken: srv.RefreshToken()}
		},
		"client assertion": func(e tokensource.Endpoint) tokensource.Source {
			srv.TrustKey(p256.Public())
			e.ClientAssertion = &tokensource.SignedJWT{Key: p256, Issuer: e.ClientID, Subject: e.ClientID, Audience: []string{e.URL}}
			return &tokensource.ClientCredentials{Endpoint: e}
		},
	}
}

func TestAServerThatDemandsNoncesAtBothEndpointsAndATokenThatExpiresWithThem(t *testing.T) {
	srv := tokentest.NewServer(t)
	for name, grant := range boundGrants(srv) {
		t.Run(name, func(t *testing.T) {
			client, base := dpopClient(t, srv, grant)
			before := srv.Counts()
			for i := range 20 {
				for _, name := range []string{fmt.Sprint(i), fmt.Sprint(i, "-again")} {
					if err := send(client, srv, name); err != nil {
						t.Fatal(err)
					}
				}
				srv.ExpireNonces()
				srv.RevokeAccess()
			}
			base.wantAtMost(t, 3)
			counts := srv.Counts()
			if got := counts.NonceChallenges - before.NonceChallenges; got < 38 {
				t.Errorf("%d demands for a nonce, want two for each time that they expired", got)
			}
			if got := counts.ProofReuses + counts.Reuses; got != 0 {
				t.Errorf("%d proofs or refresh tokens were used twice", got)
			}
		})
	}
}

func TestAnErrorBelowAuthKeepsItsStatus(t *testing.T) {
	sent := 0
	auth := &transport.Auth{Source: tokensource.Func(oldThenNew), Base: roundTripper(func(*http.Request) (*http.Response, error) {
		if sent++; sent == 2 {
			return nil, &transport.Error{StatusCode: 403, Err: errors.New("of another Auth")}
		}
		return bodyAnswer(401, strings.NewReader("")), nil
	})}
	_, _, err := get(t, auth)
	if e, ok := errors.AsType[*transport.Error](err); !ok || e.StatusCode != 403 {
		t.Errorf("got %v, want the error with status 403", err)
	}
}

func TestManyClientsWhileTokensAndNoncesExpire(t *testing.T) {
	srv := tokentest.NewServer(t)
	client, base := dpopClient(t, srv, boundGrants(srv)["refresh token"])
	for round := range 10 {
		var requests atomic.Int32
		for _, err := range all(100, func() error { return send(client, srv, fmt.Sprint(round, "-", requests.Add(1))) }) {
			if err != nil {
				t.Error(err)
			}
		}
		srv.ExpireNonces()
		srv.RevokeAccess()
	}
	base.wantAtMost(t, 3)
	if c := srv.Counts(); c.ProofReuses+c.Reuses != 0 || c.Rotations != 10 {
		t.Errorf("got %+v, want 10 rotations and nothing used twice", c)
	}
}

func TestAURLWhoseTargetNobodyKnowsIsAnError(t *testing.T) {
	for _, u := range []*url.URL{
		{Scheme: "https", Host: "bücher.example", Path: "/"},
		{Scheme: "https", Host: "api.example", Opaque: "//api.example/a"},
	} {
		_, err := (&transport.DPoP{Key: p256, Base: unsent(t)}).RoundTrip(&http.Request{URL: u})
		if _, is := errors.AsType[*transport.Error](err); !is || !strings.Contains(err.Error(), "in ASCII") {
			t.Errorf("%v: got %v, want an Error that tells why", u, err)
		}
	}
}

func BenchmarkProof(b *testing.B) {
	for name, key := range map[string]crypto.Signer{"P-256": p256, "Ed25519": edKey} {
		b.Run(name, func(b *testing.B) {
			var last *http.Request
			dpop := &transport.DPoP{Key: key, Base: caught(&last)}
			req, _ := http.NewRequest("GET", "https://api.example.com/x", nil)
			req.Header.Set("Authorization", "DPoP token")
			b.ReportAllocs()
			for b.Loop() {
				dpop.RoundTrip(req)
			}
		})
	}
}
