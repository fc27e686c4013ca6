package tokentest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A prover makes DPoP proofs with its key.
type prover struct {
	method jwt.SigningMethod
	key    crypto.Signer
	jwk    map[string]any
}

func base64URL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newProver(t *testing.T) prover {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	return prover{jwt.SigningMethodES256, key, jwkOf(t, key)}
}

func jwkOf(t *testing.T, key *ecdsa.PrivateKey) map[string]any {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256", "x": base64URL(point[1:33]), "y": base64URL(point[33:])}
}

func newEdProver() prover {
	public, private, _ := ed25519.GenerateKey(nil)
	jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64URL(public)}
	return prover{jwt.SigningMethodEdDSA, private, jwk}
}

// token is a proof for a request to the URL, not signed yet.
func (p prover) token(method, url string, changes jwt.MapClaims) *jwt.Token {
	c := jwt.MapClaims{"htm": method, "htu": url, "iat": time.Now().Unix(), "jti": rand.Text()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(p.method, c)
	token.Header["typ"], token.Header["jwk"] = "dpop+jwt", p.jwk
	return token
}

func (p prover) sign(t *testing.T, token *jwt.Token) string {
	t.Helper()
	signed, err := token.SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (p prover) proof(t *testing.T, method, url string, changes jwt.MapClaims) string {
	t.Helper()
	return p.sign(t, p.token(method, url, changes))
}

// forToken is a proof for the token endpoint; an empty nonce is left out.
func (p prover) forToken(t *testing.T, srv *tokentest.Server, nonce string) string {
	t.Helper()
	return p.proof(t, "POST", srv.TokenURL(), withNonce(nonce))
}

// call calls an API with an access token and a proof for it.
func (p prover) call(t *testing.T, url, access, nonce string) answer {
	t.Helper()
	changes := withNonce(nonce)
	changes["ath"] = athOf(access)
	return getDPoP(t, url, access, p.proof(t, "GET", url, changes))
}

func withNonce(nonce string) jwt.MapClaims {
	if nonce == "" {
		return jwt.MapClaims{}
	}
	return jwt.MapClaims{"nonce": nonce}
}

func athOf(access string) string {
	sum := sha256.Sum256([]byte(access))
	return base64URL(sum[:])
}

func getDPoP(t *testing.T, url, access, proof string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "DPoP "+access)
	if proof != "" {
		req.Header.Set("DPoP", proof)
	}
	return send(t, req)
}

// postDPoP is post with a proof.
func postDPoP(t *testing.T, srv *tokentest.Server, proof string, pairs ...string) answer {
	t.Helper()
	req := formRequest(t, srv, pairs...)
	req.Header.Set("DPoP", proof)
	return send(t, req)
}

// refreshDPoP is refresh with a proof.
func refreshDPoP(t *testing.T, srv *tokentest.Server, token, proof string) answer {
	t.Helper()
	return postDPoP(t, srv, proof, "grant_type", "refresh_token", "refresh_token", token, "client_id", srv.ClientID)
}

// wantChallenge fails the test unless an answer is 401 with a DPoP challenge
// that has the error and says why.
func wantChallenge(t *testing.T, what string, got answer, code, why string) {
	t.Helper()
	challenge := got.Header.Get("WWW-Authenticate")
	if got.Status != 401 || !strings.HasPrefix(challenge, `DPoP error="`+code+`", `) ||
		!strings.Contains(challenge, why) || !strings.HasSuffix(challenge, `, algs="ES256 EdDSA"`) {
		t.Errorf("%s: got status %d, challenge %q; want 401, a DPoP challenge with %s that says %q",
			what, got.Status, challenge, code, why)
	}
}

func TestTheClaimsOfAProofAreChecked(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	token, now := srv.RefreshToken(), time.Now()
	for _, c := range []struct {
		why   string
		claim string
		value any
	}{
		{"no jti", "jti", nil},
		{"no iat", "iat", nil},
		{"iat is more than a minute", "iat", now.Add(-2 * time.Minute).Unix()},
		{"iat is more than a minute", "iat", now.Add(2 * time.Minute).Unix()},
		{"htm is not", "htm", "GET"},
		{"htm is not", "htm", nil},
		{"htu is not", "htu", srv.APIURL()},
		{"htu is not", "htu", srv.TokenURL() + "?a=b"},
		{"htu is not", "htu", "https" + strings.TrimPrefix(srv.TokenURL(), "http")},
		{"htu is not", "htu", nil},
	} {
		proof := p.proof(t, "POST", srv.TokenURL(), jwt.MapClaims{c.claim: c.value})
		wantRefused(t, c.why, refreshDPoP(t, srv, token, proof), 400, "invalid_dpop_proof", c.why)
	}
	wantStatus(t, "the token is not spent", refreshDPoP(t, srv, token, p.forToken(t, srv, "")), 200, "")
}

func TestTheHeaderOfAProofIsChecked(t *testing.T) {
	srv, p, other := tokentest.NewServer(t), newProver(t), newProver(t)
	with := func(name string, value any) map[string]any {
		jwk := maps.Clone(p.jwk)
		jwk[name] = value
		return jwk
	}
	for _, c := range []struct {
		why    string
		header string
		value  any
	}{
		{"typ is not dpop+jwt", "typ", "JWT"},
		{"no jwk", "jwk", nil},
		{"a private key", "jwk", with("d", "secret")},
		{"neither a P-256 nor an Ed25519 key", "jwk", with("crv", "P-384")},
		{"neither a P-256 nor an Ed25519 key", "jwk", map[string]any{"kty": "RSA", "n": "x", "e": "AQAB"}},
		{"not a point", "jwk", with("x", other.jwk["x"])},
		{"not a point", "jwk", with("y", "AA")},
		{"not by the jwk", "jwk", other.jwk},
		{"alg does not fit", "jwk", newEdProver().jwk},
	} {
		token := p.token("POST", srv.TokenURL(), nil)
		token.Header[c.header] = c.value
		got := refreshDPoP(t, srv, srv.RefreshToken(), p.sign(t, token))
		wantRefused(t, c.why, got, 400, "invalid_dpop_proof", c.why)
	}
}

func TestAProofThatIsNoneIsRefused(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	wantRefused(t, "not a JWT", refreshDPoP(t, srv, srv.RefreshToken(), "x"), 400, "invalid_dpop_proof", "not a JWT")

	hmac := prover{method: jwt.SigningMethodHS256, jwk: p.jwk}.token("POST", srv.TokenURL(), nil)
	signed, err := hmac.SignedString([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	got := refreshDPoP(t, srv, srv.RefreshToken(), signed)
	wantRefused(t, "HS256", got, 400, "invalid_dpop_proof", "alg does not fit")

	req := formRequest(t, srv, "grant_type", "refresh_token", "client_id", srv.ClientID)
	req.Header["Dpop"] = []string{p.forToken(t, srv, ""), p.forToken(t, srv, "")}
	wantRefused(t, "two headers", send(t, req), 400, "invalid_dpop_proof", "one DPoP header")
}

func TestTheTargetOfAProofIsComparedNormalized(t *testing.T) {
	srv, p := tokentest.NewServer(t), newEdProver()
	api := httptest.NewServer(http.StripPrefix("/v1", srv.Protect(http.NotFoundHandler())))
	defer api.Close()
	access := refreshDPoP(t, srv, srv.RefreshToken(), p.forToken(t, srv, "")).Access
	for url, htu := range map[string]string{
		"/v1":               "/v1",
		"/v1/~a/%c3%a9%2f?": "/v1/%7Ea/%C3%a9%2F",
		"/v1/x?a=b":         "/v1/x",
	} {
		proof := p.proof(t, "GET", "HTTP"+strings.TrimPrefix(api.URL, "http")+htu, jwt.MapClaims{"ath": athOf(access)})
		if got := getDPoP(t, api.URL+url, access, proof); got.Status != 404 {
			t.Errorf("%s: got status %d, challenge %q; want 404 of the handler", url, got.Status, got.Header.Get("WWW-Authenticate"))
		}
	}
	proof := p.proof(t, "GET", api.URL+"/v1/a/b", jwt.MapClaims{"ath": athOf(access)})
	wantChallenge(t, "another path", getDPoP(t, api.URL+"/v1/a%2Fb", access, proof), "invalid_dpop_proof", "htu")
}

func TestADefaultPortMayBeLeftOutOfATarget(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	access := refreshDPoP(t, srv, srv.RefreshToken(), p.forToken(t, srv, "")).Access
	req := httptest.NewRequest("GET", "https://API.example.com:443", nil)
	proof := p.proof(t, "GET", "https://api.example.com/", jwt.MapClaims{"ath": athOf(access)})
	req.Header.Set("Authorization", "DPoP "+access)
	req.Header.Set("DPoP", proof)
	recorder := httptest.NewRecorder()
	srv.Protect(http.NotFoundHandler()).ServeHTTP(recorder, req)
	if recorder.Code != 404 {
		t.Errorf("got status %d, challenge %q; want 404 of the handler", recorder.Code, recorder.Header().Get("WWW-Authenticate"))
	}
}

func TestAProofIsGoodOnceAnywhere(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	token, proof := srv.RefreshToken(), p.forToken(t, srv, "")
	first := refreshDPoP(t, srv, token, proof)
	wantStatus(t, "first", first, 200, "")
	again := refreshDPoP(t, srv, first.Refresh, proof)
	wantRefused(t, "again", again, 400, "invalid_dpop_proof", "used before")
	wantChallenge(t, "at the API", getDPoP(t, srv.APIURL(), first.Access, proof), "invalid_dpop_proof", "used before")
	if got := srv.Counts().ProofReuses; got != 2 {
		t.Errorf("got %d reuses of a proof; want 2", got)
	}
}
