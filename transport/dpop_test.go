package transport_test

import (
	"context"
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

// A nonceServer answers what answer says, with nonce-1, nonce-2 and so on.
type nonceServer struct {
	answer func(n int, req *http.Request, resp *http.Response)
	seen   []string // the nonces of the proofs
}

func (s *nonceServer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	nonce, _ := proofClaims(req)["nonce"].(string)
	s.seen = append(s.seen, nonce)
	resp := bodyAnswer(200, strings.NewReader("ok"))
	resp.Header.Set("DPoP-Nonce", fmt.Sprintf("nonce-%d", len(s.seen)))
	s.answer(len(s.seen), req, resp)
	return resp, nil
}

func (s *nonceServer) wantSeen(t *testing.T, want ...string) {
	t.Helper()
	if fmt.Sprintf("%q", s.seen) != fmt.Sprintf("%q", want) {
		t.Errorf("got the nonces %q, want %q", s.seen, want)
	}
}

// demand makes a response demand its nonce as an authorization server or an API does.
func demand(resp *http.Response, status int) {
	resp.StatusCode = status
	if status == 401 {
		resp.Header.Set("WWW-Authenticate", `Basic realm="x", DPoP error="use_dpop_nonce", algs="ES256"`)
		return
	}
	resp.Header.Set("Content-Type", "application/json;charset=utf-8")
	resp.Body = io.NopCloser(strings.NewReader(`{"error":"use_dpop_nonce"}`))
}

func TestADemandForANonceCostsOneResend(t *testing.T) {
	for _, status := range []int{400, 401} {
		s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
			if n == 1 {
				demand(resp, status)
			}
		}}
		dpop := &transport.DPoP{Key: p256, Base: s}
		for range 2 {
			getsStatus(t, dpop, postBody(t, "https://as.example/token", io.LimitReader(strings.NewReader("body"), 4)), 200)
		}
		s.wantSeen(t, "", "nonce-1", "nonce-2")
	}
}

// Sixteen of these have all of DPoP's budget.
func TestTheBudgetOfAResendComesBack(t *testing.T) {
	demanding := &nonceServer{}
	demanding.answer = func(n int, _ *http.Request, resp *http.Response) {
		if n%2 == 1 {
			demand(resp, 400)
		}
	}
	dpop := &transport.DPoP{Key: edKey, Base: demanding}
	for range 20 {
		body := zeros(4 * mib)
		getsStatus(t, dpop, postBody(t, "https://as.example", &body), 200)
	}
}

func TestADemandForANonceComesAsItIsIfTheBodyCannotBeSentAgain(t *testing.T) {
	large := zeros(5 * mib)
	for name, body := range map[string]func(*http.Request){
		"too large": func(req *http.Request) { req.Body = &large },
		"GetBody fails": func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("none") }
		},
	} {
		s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) { demand(resp, 400) }}
		req := postBody(t, "https://as.example", strings.NewReader("body"))
		req.GetBody = nil
		body(req)
		if got := getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, 400); got != `{"error":"use_dpop_nonce"}` || len(s.seen) != 1 {
			t.Errorf("%s: got %q after %d attempts, want the server's answer after one", name, got, len(s.seen))
		}
	}
}

func TestAResponseThatDemandsANonceIsClosedOnce(t *testing.T) {
	refusal := &bodyOf{Reader: strings.NewReader("")}
	closedOnce(t, refusal)
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 1 {
			demand(resp, 401)
			resp.Body = refusal
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
}

// Some servers answer a proof that they do not like with invalid_grant, too.
func TestAnInvalidGrantInAnswerToAProofIsNotFinal(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		resp := bodyAnswer(400, strings.NewReader(`{"error":"invalid_grant"}`))
		resp.Header.Set("Content-Type", "application/json")
		return resp, nil
	})
	for final, rt := range map[bool]http.RoundTripper{true: base, false: &transport.DPoP{Key: p256, Base: base}} {
		grant := &tokensource.RefreshToken{RefreshToken: "r", Endpoint: tokensource.Endpoint{
			URL: "https://as.example", ClientID: "app", Client: &http.Client{Transport: rt}}}
		if _, err := grant.Token(t.Context(), nil); errors.Is(err, tokensource.ErrReauthenticate) != final {
			t.Errorf("over %T: got %v, want ErrReauthenticate: %t", rt, err, final)
		}
	}
}

func TestASecondDemandForANonceIsTheCallersAndTheNextRequestHasIt(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n <= 2 {
			demand(resp, 400)
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	if got := getsStatus(t, dpop, postBody(t, "https://as.example", nil), 400); got != `{"error":"use_dpop_nonce"}` {
		t.Errorf("got %q, want the server's answer", got)
	}
	getsStatus(t, dpop, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", "nonce-1", "nonce-2")
}

func TestAnAnswerThatDemandsNoNonceComesWhole(t *testing.T) {
	const demanded = `{"error":"use_dpop_nonce"}`
	large := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, media, nonce, challenge, body string
		status                              int
	}{
		{"another error", "application/json", "n", "", `{"error":"invalid_grant"}`, 400},
		{"no JSON", "application/json", "n", "", "use_dpop_nonce", 400},
		{"no JSON by its type", "text/plain", "n", "", demanded, 400},
		{"more than is read", "application/json", "n", "", `{"error":"use_dpop_nonce","x":"` + large + `"}`, 400},
		{"no nonce", "application/json", "", "", demanded, 400},
		{"a quote in the nonce", "application/json", `a"b`, "", demanded, 400},
		{"a backslash in the nonce", "application/json", `a\b`, "", demanded, 400},
		{"a space in the nonce", "application/json", "a b", "", demanded, 400},
		{"a control in the nonce", "application/json", "a\x7f", "", demanded, 400},
		{"too long a nonce", "application/json", large[:1025], "", demanded, 400},
		{"another status", "application/json", "n", "", demanded, 403},
		{"another challenge", "", "n", `DPoP error="invalid_token"`, "", 401},
		{"another scheme", "", "n", `Bearer error="use_dpop_nonce"`, "", 401},
		{"a challenge with another status", "", "n", `DPoP error="use_dpop_nonce"`, "", 403},
		{"an error that is no string", "application/json", "n", "", `{"error":"use_dpop_nonce","error":1}`, 400},
	} {
		sent := 0
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			sent++
			resp := bodyAnswer(c.status, strings.NewReader(c.body))
			resp.Header = http.Header{"Content-Type": {c.media}, "Dpop-Nonce": {c.nonce}, "Www-Authenticate": {c.challenge}}
			return resp, nil
		})
		got := getsStatus(t, &transport.DPoP{Key: p256, Base: base}, postBody(t, "https://as.example", nil), c.status)
		if got != c.body || sent != 1 {
			t.Errorf("%s: got %.50q after %d attempts, want %.50q after one", c.name, got, sent, c.body)
		}
	}
}

func TestTheLongestNonceIsSentBack(t *testing.T) {
	longest := strings.Repeat("!~", 512)
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		resp.Header.Set("DPoP-Nonce", longest)
		if n == 1 {
			demand(resp, 400)
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", longest)
}

func TestADemandForTheNonceThatWasSentIsNotObeyed(t *testing.T) {
	sent := 0
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		sent++
		resp := bodyAnswer(401, strings.NewReader(""))
		resp.Header.Set("DPoP-Nonce", "always")
		demand(resp, 401)
		return resp, nil
	})
	dpop := &transport.DPoP{Key: p256, Base: base}
	for range 3 {
		getsStatus(t, dpop, postBody(t, "https://api.example", nil), 401)
	}
	if sent != 4 {
		t.Errorf("3 requests were sent %d times, want 4", sent)
	}
}

func TestEachServerHasNoncesOfItsOwnAndSoHasEachRole(t *testing.T) {
	s := &nonceServer{answer: func(int, *http.Request, *http.Response) {}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for _, target := range []string{"https://a.example", "https://b.example", "https://A.example:443/x", "https://b.example"} {
		getsStatus(t, dpop, postBody(t, target, nil), 200)
	}
	api := postBody(t, "https://a.example", nil)
	api.Header.Set("Authorization", "DPoP token")
	getsStatus(t, dpop, api, 200)
	s.wantSeen(t, "", "", "nonce-1", "nonce-2", "")
}

func TestAnAuthorizationServersDemandNeedsNoChallenge(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 1 {
			demand(resp, 400)
			resp.StatusCode = 401
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", "nonce-1")
}

func TestADemandWithoutANonceIsNotObeyedAndTheLastOneStays(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 2 {
			demand(resp, 401)
		}
		if n > 1 {
			resp.Header.Del("DPoP-Nonce")
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for _, status := range []int{200, 401, 200} {
		getsStatus(t, dpop, postBody(t, "https://as.example", nil), status)
	}
	s.wantSeen(t, "", "nonce-1", "nonce-1")
}

func TestARefusalWithANilBodyComesAsItIs(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 400, Header: http.Header{"Content-Type": {"application/json"}, "Dpop-Nonce": {"n"}}}, nil
	})
	resp, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(postBody(t, "https://as.example", nil))
	if err != nil || resp.StatusCode != 400 || resp.Body != nil {
		t.Errorf("got %v and %v, want the response", resp, err)
	}
}

func TestTheNoncesOf256ServersAreKept(t *testing.T) {
	silent := false
	s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) {
		if silent {
			resp.Header.Del("DPoP-Nonce")
		}
	}}
	dpop := &transport.DPoP{Key: edKey, Base: s}
	ask := func(servers int) (known int) {
		s.seen = nil
		for i := range servers {
			getsStatus(t, dpop, postBody(t, fmt.Sprintf("https://%d.example", i), nil), 200)
		}
		for _, nonce := range s.seen {
			if nonce != "" {
				known++
			}
		}
		return known
	}
	ask(256)
	if got := ask(256); got != 256 { // each has a new one
		t.Errorf("the nonces of %d servers are known, want 256", got)
	}
	ask(257)
	silent = true
	if got := ask(257); got != 256 {
		t.Errorf("the nonces of %d of 257 servers are known, want 256", got)
	}
}

func TestNoncesOfManyServersAreBounded(t *testing.T) {
	s := &nonceServer{answer: func(int, *http.Request, *http.Response) {}}
	dpop := &transport.DPoP{Key: edKey, Base: s}
	for range 2 {
		for i := range 300 {
			getsStatus(t, dpop, postBody(t, fmt.Sprintf("https://%d.example", i), nil), 200)
		}
	}
	known := 0
	for _, nonce := range s.seen[300:] {
		if nonce != "" {
			known++
		}
	}
	if known == 0 || known > 256 {
		t.Errorf("%d nonces were kept, want some, and at most 256", known)
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

func TestARequestWhoseProofIsRefusedIsSentAgainIfItIsIdempotent(t *testing.T) {
	for _, c := range []struct {
		method, header, challenge string
		sent                      int
	}{
		{"", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"GET", "", `Bearer, dpop error="invalid_dpop_proof"`, 2},
		{"HEAD", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"OPTIONS", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"TRACE", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "Idempotency-Key", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "X-Idempotency-Key", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "", `DPoP error="invalid_dpop_proof"`, 1},
		{"PUT", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"DELETE", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"PATCH", "", `DPoP error="invalid_dpop_proof"`, 1},
		{"GET", "", `DPoP error="invalid_token"`, 1},
		{"POST", "Idempotency-Key", `DPoP error="invalid_token"`, 1},
		{"GET", "", `Bearer error="invalid_dpop_proof"`, 1},
		{"GET", "", `DPoP algs="ES256", DPoP error="invalid_dpop_proof"`, 2},
		{"GET", "", `DPoP error="use_dpop_nonce"`, 1}, // without one
	} {
		ids := make(map[any]string) // and what came with it
		dpop := &transport.DPoP{Key: p256, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(req.Body)
			req.Body.Close()
			ids[proofClaims(req)["jti"]] = string(body)
			resp := httptest.NewRecorder().Result()
			resp.StatusCode = 401
			resp.Header.Set("WWW-Authenticate", c.challenge)
			return resp, err
		})}
		req, _ := http.NewRequest(c.method, "https://api.example", io.LimitReader(strings.NewReader("body"), 4))
		req.Method = c.method
		if c.header != "" {
			req.Header.Set(c.header, "1")
		}
		getsStatus(t, dpop, req, 401)
		if len(ids) != c.sent {
			t.Errorf("%+v: %d proofs were sent, want %d", c, len(ids), c.sent)
		}
		for _, body := range ids {
			if body != "body" {
				t.Errorf("%+v: the body %q was sent", c, body)
			}
		}
	}
}

// A failingKey signs so many times, and then no more.
type failingKey struct {
	crypto.Signer
	left int
}

func (k *failingKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.left--; k.left < 0 {
		return nil, errors.New("the HSM is away")
	}
	return k.Signer.Sign(r, digest, o)
}

// That it was not sent at all may be a reason to send it again.
func TestAKeyThatFailsLaterDoesNotMeanThatNothingWasSent(t *testing.T) {
	bound := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		token, err := oldThenNew(ctx, old)
		token.TokenType = "DPoP"
		return token, err
	})
	for challenge, signs := range map[string]int{"invalid_dpop_proof": 1, "invalid_token": 1, "": 0} {
		for _, below := range []bool{false, true} {
			if !below && challenge == "invalid_token" {
				continue // for Auth
			}
			s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) {
				resp.StatusCode = 401
				resp.Header.Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", challenge))
			}}
			var rt http.RoundTripper = &transport.DPoP{Key: &failingKey{p256, signs}, Base: s}
			if below {
				rt = &transport.Auth{Source: bound, Base: rt}
			}
			req, _ := http.NewRequest("PUT", "https://api.example", strings.NewReader("body"))
			_, err := rt.RoundTrip(req)
			e, ok := errors.AsType[*transport.Error](err)
			if want := 401 * signs; !ok || e.StatusCode != want || len(s.seen) != signs || !strings.Contains(e.Error(), "HSM") {
				t.Errorf("%q, below Auth: %v: sent %d times, error %v, want one with the status %d", challenge, below, len(s.seen), err, want)
			}
		}
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

func TestTheTrailersGoWithEachProof(t *testing.T) {
	for _, answers := range []string{"", "n"} {
		var came []string
		s := &nonceServer{answer: func(n int, req *http.Request, resp *http.Response) {
			came = append(came, req.Trailer.Get("X-Sum"))
			if n <= len(answers) {
				demand(resp, 401)
			}
		}}
		req, sum := summed(t, "https://api.example", 10_000)
		getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, 200)
		for _, got := range came {
			if got != sum {
				t.Errorf("after %q came the trailer %q, want %q", answers, got, sum)
			}
		}
	}
}

func TestARequestIsSentAgainOnceForItsNonceAndOnceForItsProof(t *testing.T) {
	for _, c := range []struct {
		answers   string // n demands a nonce, p refuses the proof; what follows is accepted
		recorded  bool
		sent      int
		succeeded bool
	}{
		{"np", false, 3, true},
		{"pn", false, 3, true},
		{"nn", false, 2, false},
		{"pp", false, 2, false},
		{"npn", false, 3, false},
		{"pnp", false, 3, false},
		{"n", true, 2, true},
		{"p", true, 2, true},
		{"np", true, 2, false},
		{"pn", true, 2, false},
	} {
		s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
			if n > len(c.answers) {
				return
			}
			if demand(resp, 401); c.answers[n-1] == 'p' {
				resp.Header.Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
			}
		}}
		req, _ := http.NewRequest("PUT", "https://api.example", strings.NewReader("body"))
		if c.recorded {
			req.GetBody = nil
		}
		want := 401
		if c.succeeded {
			want = 200
		}
		getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, want)
		if len(s.seen) != c.sent {
			t.Errorf("%+v: it was sent %d times", c, len(s.seen))
		}
	}
}

// A server that refuses a body unread leaves nothing of it in the recording.
func TestARecordedBodyThatWasNotReadIsSentTwiceAtMost(t *testing.T) {
	sent, codes := 0, []string{"use_dpop_nonce", "invalid_dpop_proof", ""}
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		resp := bodyAnswer(401, http.NoBody)
		resp.Header.Set("DPoP-Nonce", "n")
		resp.Header.Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", codes[sent]))
		if sent++; sent > 1 {
			io.Copy(io.Discard, req.Body)
		}
		return resp, req.Body.Close()
	})
	req, _ := http.NewRequest("PUT", "https://api.example", io.LimitReader(strings.NewReader("body"), 4))
	if getsStatus(t, &transport.DPoP{Key: p256, Base: base}, req, 401); sent != 2 {
		t.Errorf("it was sent %d times, want 2", sent)
	}
}

func TestAProofThatIsRefusedWithoutANonceIsFollowedByOneWithTheSameNonce(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 2 {
			resp.StatusCode = 401
			resp.Header = http.Header{"Www-Authenticate": {`DPoP error="invalid_dpop_proof"`}}
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for range 2 {
		req, _ := http.NewRequest("GET", "https://api.example", nil)
		getsStatus(t, dpop, req, 200)
	}
	s.wantSeen(t, "", "nonce-1", "nonce-1")
}

// net/http sends a GET again by itself, with the proof that it has, when a
// connection ends on which others were answered before. So may a proxy.
func TestAProofThatNetHTTPSentTwiceCostsOneResend(t *testing.T) {
	srv := tokentest.NewServer(t)
	client, _ := dpopClient(t, srv, boundGrants(srv)["client credentials"])
	var answered atomic.Int32
	api := httptest.NewServer(srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if answered.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
	})))
	defer api.Close()
	for range 3 {
		resp, err := client.Get(api.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("got %s, want 200", resp.Status)
		}
	}
	if c := srv.Counts(); c.ProofReuses != 1 || c.Issued != 1 {
		t.Errorf("got %+v, want 1 token, and 1 proof that was used twice", c)
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

func TestABodyOnItsWayIsHeldForTheNonceAndForTheToken(t *testing.T) {
	for _, protocol := range protocols {
		for _, size := range []int64{1, kib, mib} {
			a := &boundAPI{readFirst: size / 2}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			data, sum := noise(size)
			body := &bodyOf{Reader: data}
			closedOnce(t, body)
			bound := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				token, err := oldThenNew(ctx, old)
				return &tokensource.Token{AccessToken: token.AccessToken, TokenType: "DPoP"}, err
			})
			auth := &transport.Auth{Source: bound, Base: &transport.DPoP{Key: p256, Base: base}}
			getsStatus(t, auth, postBody(t, url, body), 200)
			if got, want := strings.Join(a.came, "\n"), "no nonce\nDPoP old\n"+sum; got != want {
				t.Errorf("%s, %d bytes: the server got\n%s\nwant\n%s", protocol, size, got, want)
			}
		}
	}
}

// A boundAPI demands a nonce, then another token, each when it has read so much.
type boundAPI struct {
	readFirst int64
	came      []string
}

func (a *boundAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if proofClaims(r)["nonce"] == "n" && r.Header.Get("Authorization") == "DPoP new" {
		_, sum := summedBody(r.Body)
		a.came = append(a.came, sum)
		return
	}
	http.NewResponseController(w).EnableFullDuplex()
	io.CopyN(io.Discard, r.Body, a.readFirst)
	challenge, what := `DPoP error="invalid_token"`, r.Header.Get("Authorization")
	if proofClaims(r)["nonce"] == nil {
		challenge, what = `DPoP error="use_dpop_nonce"`, "no nonce"
	}
	a.came = append(a.came, what)
	w.Header().Set("DPoP-Nonce", "n")
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(401)
	http.NewResponseController(w).Flush()
	io.Copy(io.Discard, r.Body) // or net/http may panic: it hits the end only after the handler
}

// early answers attempts in turn: it reads so much of the body, and closes it, if it refuses.
type early struct {
	answers []earlyAnswer
	rest    chan string
}

type earlyAnswer struct {
	reads     int64
	challenge string // none: the rest of the body is read after the answer
}

func (e *early) RoundTrip(req *http.Request) (*http.Response, error) {
	a := e.answers[0]
	e.answers = e.answers[1:]
	io.CopyN(io.Discard, req.Body, a.reads)
	if a.challenge == "" {
		go func() {
			rest, err := io.ReadAll(req.Body)
			req.Body.Close()
			e.rest <- fmt.Sprint(string(rest), err)
		}()
		return bodyAnswer(200, strings.NewReader("")), nil
	}
	req.Body.Close()
	resp := bodyAnswer(401, strings.NewReader(""))
	resp.Header.Set("WWW-Authenticate", a.challenge)
	if a.challenge == needsNonce {
		resp.Header.Set("DPoP-Nonce", fmt.Sprint(len(e.answers)))
	}
	return resp, nil
}

const (
	needsNonce = `DPoP error="use_dpop_nonce"`
	needsToken = `DPoP error="invalid_token"`
)

func TestNoPartOfABodyIsMissingWhateverTheOrderOfRefusals(t *testing.T) {
	for name, answers := range map[string][]earlyAnswer{
		"nonce":               {{8, needsNonce}, {0, ""}},
		"token":               {{8, needsToken}, {0, ""}},
		"nonce, token":        {{4, needsNonce}, {8, needsToken}, {0, ""}},
		"token, nonce":        {{4, needsToken}, {8, needsNonce}, {0, ""}},
		"nonce, token, nonce": {{4, needsNonce}, {6, needsToken}, {10, needsNonce}, {0, ""}},
		"less each time":      {{12, needsNonce}, {8, needsToken}, {4, needsNonce}, {0, ""}},
		"nothing":             {{0, needsToken}, {0, needsNonce}, {0, ""}},
		"to the end":          {{16, needsNonce}, {16, needsToken}, {16, needsNonce}, {0, ""}},
	} {
		tokens := 0
		source := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			tokens++
			return &tokensource.Token{AccessToken: fmt.Sprint("token-", tokens), TokenType: "DPoP"}, nil
		})
		base := &early{answers: answers, rest: make(chan string, 1)}
		auth := &transport.Auth{Source: source, Base: &transport.DPoP{Key: edKey, Base: base}}
		body := &bodyOf{Reader: strings.NewReader("0123456789abcdef")}
		closedOnce(t, body)
		getsStatus(t, auth, postBody(t, "https://api.example", body), 200)
		if got := <-base.rest; got != "0123456789abcdef<nil>" {
			t.Errorf("%s: the server got %q", name, got)
		}
	}
}

func TestARefusalOfAnAPIOrWithoutANonceIsNotReadForADemand(t *testing.T) {
	for authorization, nonce := range map[string]string{"DPoP token": "n", "": ""} {
		read := false
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			resp := bodyAnswer(400, atEnd(func() { read = true }))
			resp.Header.Set("Content-Type", "application/json")
			resp.Header.Set("DPoP-Nonce", nonce)
			return resp, nil
		})
		req := postBody(t, "https://api.example", nil)
		req.Header.Set("Authorization", authorization)
		if _, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(req); err != nil || read {
			t.Errorf("%q: got %v, the body was read: %t, want the first Read to be the caller's", authorization, err, read)
		}
	}
}

// brokenOff ends with an error, which it tells once.
type brokenOff struct {
	io.Reader
	err error
}

func (b *brokenOff) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err, b.err = b.err, io.EOF
	}
	return n, err
}

func TestAnAnswerThatBreaksOffIsTheCallersWithItsError(t *testing.T) {
	broken := errors.New("broken off")
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		resp := bodyAnswer(400, &brokenOff{Reader: strings.NewReader(`{"error":`), err: broken})
		resp.Header = http.Header{"Content-Type": {"application/json"}, "Dpop-Nonce": {"n"}}
		return resp, nil
	})
	resp, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(postBody(t, "https://as.example", nil))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := io.ReadAll(resp.Body)
		if err != broken {
			t.Errorf("got %q and %v, want the error of the body", got, err)
		}
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
