package tokentest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

const (
	jwtBearer     = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// trusting returns a server, and a P-256 key that it trusts.
func trusting(t *testing.T) (*tokentest.Server, *ecdsa.PrivateKey) {
	t.Helper()
	srv, key := tokentest.NewServer(t), ecKey(t, elliptic.P256())
	srv.TrustKey(key.Public())
	return srv, key
}

func signJWT(t *testing.T, method jwt.SigningMethod, key any, claims jwt.Claims) string {
	t.Helper()
	signed, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// goodClaims are those of an assertion for both uses, with the changes made;
// a change to nil leaves a claim out.
func goodClaims(srv *tokentest.Server, changes jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": srv.ClientID, "sub": srv.ClientID, "aud": srv.TokenURL(), "jti": rand.Text(),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func credentialsBy(t *testing.T, srv *tokentest.Server, assertion string) answer {
	t.Helper()
	return post(t, srv, "grant_type", "client_credentials",
		"client_assertion_type", assertionType, "client_assertion", assertion)
}

func grantFor(t *testing.T, srv *tokentest.Server, assertion string) answer {
	t.Helper()
	return post(t, srv, "grant_type", jwtBearer, "assertion", assertion)
}

// wantRefused fails the test unless the description holds why.
func wantRefused(t *testing.T, what string, got answer, status int, code, why string) {
	t.Helper()
	wantStatus(t, what, got, status, code)
	if !strings.Contains(got.Description, why) {
		t.Errorf("%s: got error_description %q; want it to say %q", what, got.Description, why)
	}
}

// wantSubject fails the test unless an answer's access token is good and theirs.
func wantSubject(t *testing.T, srv *tokentest.Server, got answer, subject, actor string) {
	t.Helper()
	gotSubject, gotActor, err := srv.Subject(got.Access)
	if err != nil || gotSubject != subject || gotActor != actor {
		t.Errorf("got a token of %q by %q, error %v; want %q by %q", gotSubject, gotActor, err, subject, actor)
	}
}

func TestATrustedKeyOfEveryKindSigns(t *testing.T) {
	srv := tokentest.NewServer(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, _ := ed25519.GenerateKey(nil)
	keys := map[crypto.Signer][]jwt.SigningMethod{
		rsaKey: {jwt.SigningMethodRS256, jwt.SigningMethodRS384, jwt.SigningMethodRS512,
			jwt.SigningMethodPS256, jwt.SigningMethodPS384, jwt.SigningMethodPS512},
		ecKey(t, elliptic.P256()): {jwt.SigningMethodES256},
		ecKey(t, elliptic.P384()): {jwt.SigningMethodES384},
		ecKey(t, elliptic.P521()): {jwt.SigningMethodES512},
		&edKey:                    {jwt.SigningMethodEdDSA},
	}
	for key, methods := range keys {
		srv.TrustKey(key.Public())
		for _, method := range methods {
			got := credentialsBy(t, srv, signJWT(t, method, key, goodClaims(srv, nil)))
			wantStatus(t, method.Alg(), got, 200, "")
			wantSubject(t, srv, got, srv.ClientID, "")
		}
	}
}

func TestTrustKeyPanicsForAKeyItCannotUse(t *testing.T) {
	srv := tokentest.NewServer(t)
	for _, key := range []crypto.PublicKey{nil, []byte("secret"), ecKey(t, elliptic.P224()).Public()} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("got no panic for a key of type %T; want one", key)
				}
			}()
			srv.TrustKey(key)
		}()
	}
}

func TestOnlyATrustedSignatureCounts(t *testing.T) {
	srv, _ := trusting(t)
	claims := goodClaims(srv, nil)
	for what, assertion := range map[string]string{
		"another key":    signJWT(t, jwt.SigningMethodES256, ecKey(t, elliptic.P256()), claims),
		"another kind":   signJWT(t, jwt.SigningMethodES384, ecKey(t, elliptic.P384()), claims),
		"a secret":       signJWT(t, jwt.SigningMethodHS256, []byte(srv.ClientSecret), claims),
		"no signature":   signJWT(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims),
		"not even a JWT": "x",
	} {
		why := "no trusted key"
		if assertion == "x" {
			why = "not a JWT"
		}
		wantRefused(t, what, credentialsBy(t, srv, assertion), 401, "invalid_client", why)
		wantRefused(t, what, grantFor(t, srv, assertion), 400, "invalid_grant", why)
	}
}

func TestTheClaimsOfAnAssertionAreChecked(t *testing.T) {
	srv, key := trusting(t)
	now := time.Now()
	for why, wrong := range map[string]jwt.MapClaims{
		"aud is not this server": {"aud": "https://example.com/token"},
		"no exp":                 {"exp": nil},
		"exp is over":            {"exp": now.Unix()},
		"iat is in the future":   {"iat": now.Add(time.Minute).Unix()},
		"nbf is in the future":   {"nbf": now.Add(time.Minute).Unix()},
	} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, wrong))
		wantRefused(t, why, credentialsBy(t, srv, assertion), 401, "invalid_client", why)
		wantRefused(t, why, grantFor(t, srv, assertion), 400, "invalid_grant", why)
	}
	for what, good := range map[string]jwt.MapClaims{
		"the server's URL": {"aud": srv.URL},
		"several aud":      {"aud": []string{"https://example.com", srv.TokenURL()}},
		"a little skew":    {"iat": now.Add(10 * time.Second).Unix()},
		"no iat":           {"iat": nil},
	} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, good))
		wantStatus(t, what, credentialsBy(t, srv, assertion), 200, "")
	}
}

func TestAClientsAssertionNamesTheClientAndHasAnID(t *testing.T) {
	srv, key := trusting(t)
	for why, wrong := range map[string]jwt.MapClaims{
		"iss is not the client": {"iss": "another"},
		"sub is not the client": {"sub": "another"},
		"no jti":                {"jti": nil},
	} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, wrong))
		wantRefused(t, why, credentialsBy(t, srv, assertion), 401, "invalid_client", why)
	}
}

func TestAnAssertionIsGoodOnce(t *testing.T) {
	srv, key := trusting(t)
	assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))
	wantStatus(t, "first", credentialsBy(t, srv, assertion), 200, "")
	wantRefused(t, "as a client", credentialsBy(t, srv, assertion), 401, "invalid_client", "used before")
	wantRefused(t, "as a grant", grantFor(t, srv, assertion), 400, "invalid_grant", "used before")

	endless := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, jwt.MapClaims{"jti": nil}))
	for range 2 {
		wantStatus(t, "a grant without jti", grantFor(t, srv, endless), 200, "")
	}
}

func TestAnAssertionAuthenticatesTheClientForEveryGrant(t *testing.T) {
	srv, key := trusting(t)
	mine := login(t, srv, srv.Password).Access
	for _, grant := range [][]string{
		{"grant_type", "client_credentials"},
		{"grant_type", "refresh_token", "refresh_token", srv.RefreshToken()},
		{"grant_type", jwtBearer, "assertion", signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))},
		{"grant_type", tokenExchange, "subject_token", mine, "subject_token_type", accessTokenType},
	} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))
		form := append(grant, "client_id", srv.ClientID,
			"client_assertion_type", assertionType, "client_assertion", assertion)
		wantStatus(t, grant[1], post(t, srv, form...), 200, "")
	}
}

func TestAnAssertionIsTheOnlyWayTheClientSaysWhoItIs(t *testing.T) {
	srv, key := trusting(t)
	assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))
	form := []string{"grant_type", "client_credentials",
		"client_assertion_type", assertionType, "client_assertion", assertion}
	wantStatus(t, "and a secret", post(t, srv, append(form, "client_secret", srv.ClientSecret)...), 400, "invalid_request")
	wantRefused(t, "another client_id", post(t, srv, append(form, "client_id", "another")...), 401, "invalid_client", "client_id")
	req := formRequest(t, srv, form...)
	req.SetBasicAuth(url.QueryEscape(srv.ClientID), url.QueryEscape(srv.ClientSecret))
	wantStatus(t, "and Basic", send(t, req), 400, "invalid_request")
	form[3] = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"
	wantRefused(t, "another type", post(t, srv, form...), 401, "invalid_client", "client_assertion_type")
}

func TestAGrantByAssertionIsItsSubjectsAndNeedsNoClient(t *testing.T) {
	srv, key := trusting(t)
	alice := jwt.MapClaims{"iss": "https://issuer.example.com", "sub": "alice"}
	for what, client := range map[string][]string{
		"no client":            nil,
		"a public client":      {"client_id", srv.ClientID},
		"a client with secret": {"client_id", srv.ClientID, "client_secret", srv.ClientSecret},
	} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, alice))
		got := post(t, srv, append(client, "grant_type", jwtBearer, "assertion", assertion)...)
		wantStatus(t, what, got, 200, "")
		wantSubject(t, srv, got, "alice", "")
		wantStatus(t, what, get(t, srv.APIURL(), got.Access), 200, "")
		if got.Refresh != "" || got.Type != "Bearer" || got.Lifetime != 3600 {
			t.Errorf("%s: got %+v; want a Bearer token for an hour, and no refresh token", what, got)
		}
	}
}

func TestAGrantByAssertionIsRefusedForWhatIsMissingOrWrong(t *testing.T) {
	srv, key := trusting(t)
	wantRefused(t, "none", grantFor(t, srv, ""), 400, "invalid_request", "no assertion")
	for _, claim := range []string{"iss", "sub"} {
		assertion := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, jwt.MapClaims{claim: nil}))
		wantRefused(t, claim, grantFor(t, srv, assertion), 400, "invalid_grant", "no "+claim)
	}
	got := post(t, srv, "grant_type", jwtBearer, "client_id", "another")
	wantStatus(t, "another client", got, 401, "invalid_client")
}
