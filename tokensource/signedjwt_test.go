package tokensource_test

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Keys of each kind; one of RSA takes long to find.
var (
	testP256 = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	testRSA  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	testEd   = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) })
)

// signed returns a token of s, and what it says.
func signed(t *testing.T, s tokensource.SignedJWT) (tok *Token, header map[string]any, claims jwt.MapClaims) {
	t.Helper()
	if s.Key == nil {
		s.Key = testP256()
	}
	tok, err := s.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	claims = jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(tok.AccessToken, claims, func(*jwt.Token) (any, error) { return s.Key.Public(), nil }, jwt.WithoutClaimsValidation())
	if err != nil {
		t.Fatalf("got a JWT that does not verify: %v", err)
	}
	return tok, parsed.Header, claims
}

// wantSignedError checks that s gives this error and no token.
func wantSignedError(t *testing.T, s tokensource.SignedJWT, want string) {
	t.Helper()
	if tok, err := s.Token(t.Context(), nil); tok != nil || err == nil || err.Error() != want {
		t.Errorf("got %v, %v\nwant the error: %s", tok, err, want)
	}
}

// without returns the claims but for those that are always there.
func without(claims map[string]any, names ...string) map[string]any {
	rest := maps.Clone(claims)
	maps.DeleteFunc(rest, func(name string, _ any) bool { return slices.Contains(names, name) })
	return rest
}

func TestASignedJWTSaysWhatItsFieldsSay(t *testing.T) {
	_, header, claims := signed(t, tokensource.SignedJWT{
		KeyID: "k1", Issuer: "app", Subject: "alice", Audience: []string{"https://login.example.com"},
		Claims: map[string]any{"scope": "a b", "n": 7, "nbf": nil},
		Header: map[string]any{"typ": "at+jwt", "x5t": "abc"},
	})
	wantHeader := map[string]any{"alg": "ES256", "kid": "k1", "typ": "at+jwt", "x5t": "abc"}
	if !reflect.DeepEqual(header, wantHeader) {
		t.Errorf("got the header %v, want %v", header, wantHeader)
	}
	want := map[string]any{"iss": "app", "sub": "alice", "aud": "https://login.example.com", "scope": "a b", "n": 7.0, "nbf": nil}
	if got := without(claims, "iat", "exp", "jti"); !reflect.DeepEqual(got, want) {
		t.Errorf("got the claims %v, want %v", got, want)
	}
}

func TestASignedJWTWithAKeyAloneHasNoOtherClaims(t *testing.T) {
	for _, key := range []crypto.Signer{testP256(), testRSA(), testEd()} {
		tok, header, claims := signed(t, tokensource.SignedJWT{Key: key})
		want := map[string]any{"alg": header["alg"], "typ": "JWT"}
		if !reflect.DeepEqual(header, want) || len(claims) != 3 || len(without(claims, "iat", "exp", "jti")) > 0 {
			t.Errorf("%T: got the header %v and the claims %v, want alg, typ, iat, exp and jti", key, header, claims)
		}
		if tok.TokenType != "" || tok.RefreshToken != "" || !tok.RefreshAt.IsZero() {
			t.Errorf("%T: got %#v, want an access token with an Expiry", key, tok)
		}
	}
}

func TestTheAudienceIsTextUnlessThereAreSeveral(t *testing.T) {
	for _, c := range []struct {
		audience []string
		want     any
	}{
		{nil, nil},
		{[]string{}, nil},
		{[]string{"a"}, "a"},
		{[]string{"a", "b"}, []any{"a", "b"}},
	} {
		_, _, claims := signed(t, tokensource.SignedJWT{Audience: c.audience})
		if got := claims["aud"]; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got aud %#v, want %#v", c.audience, got, c.want)
		}
	}
}

func TestIatLiesATenthOfTheLifetimeInThePastButAtMostAMinute(t *testing.T) {
	for lifetime, back := range map[time.Duration]time.Duration{
		0:                30 * time.Second,
		9 * time.Second:  0, // a tenth in whole seconds, as a JWT has them
		10 * time.Second: time.Second,
		time.Minute:      6 * time.Second,
		10 * time.Minute: time.Minute,
		time.Hour:        time.Minute,
		24 * time.Hour:   time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			now := time.Now()
			tok, _, claims := signed(t, tokensource.SignedJWT{Lifetime: lifetime})
			iat, exp := must(claims.GetIssuedAt()).Time, must(claims.GetExpirationTime()).Time
			want := lifetime
			if want == 0 {
				want = 5 * time.Minute
			}
			if now.Sub(iat) != back || exp.Sub(iat) != want || !tok.Expiry.Equal(exp) {
				t.Errorf("%v: got iat %v ago, exp %v later, Expiry %v; want %v, %v, %v", lifetime, now.Sub(iat), exp.Sub(iat), tok.Expiry, back, want, exp)
			}
		})
	}
}

// JSON has whole seconds only, and a token must not die before its Expiry.
func TestATokenLivesToItsExpiryWhateverTheFractionOfTheSecond(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Second, 1500 * time.Millisecond, 2 * time.Second, 15 * time.Second, 90*time.Second + time.Millisecond, time.Hour} {
		for _, fraction := range []time.Duration{0, 1, 50 * time.Millisecond, 499 * time.Millisecond, 999 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(fraction)
				tok, _, claims := signed(t, tokensource.SignedJWT{Lifetime: lifetime})
				iat, exp := must(claims.GetIssuedAt()).Time, must(claims.GetExpirationTime()).Time
				if tok.Expiry.After(exp) || !exp.After(time.Now()) || iat.After(time.Now()) {
					t.Errorf("%v, %v past the second: got iat %v and exp %v from now, Expiry %v; want a token that lives that long", lifetime, fraction, time.Until(iat), time.Until(exp), time.Until(tok.Expiry))
				}
				if life := exp.Sub(iat); (life - lifetime).Abs() >= time.Second {
					t.Errorf("%v: got exp %v after iat", lifetime, life)
				}
			})
		}
	}
}

func TestALifetimeOfLessThanASecondIsAnError(t *testing.T) {
	for _, lifetime := range []time.Duration{1, time.Second - 1, -1, -time.Hour} {
		wantSignedError(t, tokensource.SignedJWT{Key: testP256(), Lifetime: lifetime}, "tokensource: SignedJWT.Lifetime is less than a second")
	}
}

func TestEachSignedJWTHasAFreshJTI(t *testing.T) {
	seen := map[any]bool{}
	for range 100 {
		_, _, claims := signed(t, tokensource.SignedJWT{Key: testEd()})
		seen[claims["jti"]] = true
	}
	if len(seen) != 100 || seen[nil] || seen[""] {
		t.Errorf("got %d different values of 100, want all, none empty", len(seen))
	}
}

func TestAClaimThatIsSetAlreadyIsAnError(t *testing.T) {
	full := tokensource.SignedJWT{Key: testP256(), Issuer: "app", Subject: "app", Audience: []string{"a"}}
	for _, name := range []string{"iss", "sub", "aud", "iat", "exp", "jti"} {
		full.Claims = map[string]any{name: "mine"}
		wantSignedError(t, full, fmt.Sprintf("tokensource: SignedJWT.Claims: %q is set already", name))
	}
	claims := map[string]any{"iss": "a", "sub": "b", "aud": "c", "nbf": 1.0}
	_, _, got := signed(t, tokensource.SignedJWT{Claims: claims})
	if got := without(got, "iat", "exp", "jti"); !reflect.DeepEqual(got, claims) {
		t.Errorf("got %v, want the claims whose fields are empty: %v", got, claims)
	}
}

func TestAHeaderParameterWithAFieldIsAnError(t *testing.T) {
	for _, name := range []string{"alg", "kid"} {
		s := tokensource.SignedJWT{Key: testP256(), Header: map[string]any{name: "mine"}}
		wantSignedError(t, s, fmt.Sprintf("tokensource: SignedJWT.Header: %q has its own field", name))
	}
}

func TestAWrongKeyOrAlgorithmIsAnErrorThatNamesTheField(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for want, s := range map[string]tokensource.SignedJWT{
		"the key is nil":                                         {},
		"the key is nil or empty":                                {Key: (*rsa.PrivateKey)(nil)},
		"RS256 does not fit an Ed25519 key":                      {Key: testEd(), Algorithm: "RS256"},
		"ES512 does not fit a P-256 key":                         {Key: testP256(), Algorithm: "ES512"},
		"EdDSA does not fit an RSA key of 2048 bits":             {Key: testRSA(), Algorithm: "EdDSA"},
		`the algorithm "none" is not known`:                      {Key: testRSA(), Algorithm: "none"},
		`the algorithm "HS256" is not known`:                     {Key: testRSA(), Algorithm: "HS256"},
		"the curve of the key is none of P-256, P-384 and P-521": {Key: p224},
	} {
		wantSignedError(t, s, "tokensource: SignedJWT.Key: "+want)
	}
}

// A failingKey is a KMS that is away.
type failingKey struct {
	crypto.Signer
	err error
}

func (k failingKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, k.err }

func TestTheErrorOfAKeyIsWrapped(t *testing.T) {
	broken := errors.New("the KMS is away")
	tok, err := (&tokensource.SignedJWT{Key: failingKey{testP256(), broken}}).Token(t.Context(), nil)
	if tok != nil || !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "tokensource: SignedJWT: ") {
		t.Errorf("got %v, %v, want %v wrapped", tok, err, broken)
	}
}

func TestClaimsAndHeadersThatJSONCannotEncodeAreAnError(t *testing.T) {
	bad := map[string]any{"bad": make(chan int)}
	for what, s := range map[string]tokensource.SignedJWT{
		"claims": {Key: testP256(), Claims: bad},
		"header": {Key: testP256(), Header: bad},
	} {
		if tok, err := s.Token(t.Context(), nil); tok != nil || err == nil || !strings.HasPrefix(err.Error(), "tokensource: SignedJWT: ") {
			t.Errorf("%s: got %v, %v, want an error of SignedJWT", what, tok, err)
		}
	}
}

func TestASignedJWTLeavesItsFieldsAlone(t *testing.T) {
	claims, header, audience := map[string]any{"a": 1}, map[string]any{"b": 2}, []string{"c", "d"}
	s := &tokensource.SignedJWT{Key: testP256(), KeyID: "k", Audience: audience, Claims: claims, Header: header}
	for _, err := range all(20, func(int) error { _, err := s.Token(t.Context(), nil); return err }) {
		if err != nil {
			t.Error(err)
		}
	}
	if len(claims) != 1 || len(header) != 1 || !slices.Equal(audience, []string{"c", "d"}) {
		t.Errorf("the caller's fields became %v, %v, %v", claims, header, audience)
	}
}

func TestACacheSignsAnewBeforeTheTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokensource.SignedJWT{Key: testEd()}
		calls := 0
		c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			calls++
			return s.Token(ctx, old)
		})}
		for range 3600 {
			tok, err := c.Token(t.Context(), nil)
			if err != nil || !time.Now().Before(tok.Expiry) {
				t.Fatalf("got %v, %v, want a token that has not expired", tok, err)
			}
			time.Sleep(time.Second)
		}
		if calls < 13 || calls > 24 {
			t.Errorf("got %d signatures in an hour, want about one in 5 minutes", calls)
		}
	})
}

// pemOf writes one block.
func pemOf(kind string, data []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
}

const certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

func pkcs8(key any) string { return pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))) }
func sec1() string         { return pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(testP256()))) }
func pkcs1() string {
	return pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(testRSA()))
}

func TestParsePrivateKeyReadsTheFirstKeyOfAPEM(t *testing.T) {
	for what, c := range map[string]struct {
		text string
		want crypto.Signer
	}{
		"PKCS #8, RSA":        {pkcs8(testRSA()), testRSA()},
		"PKCS #8, ECDSA":      {pkcs8(testP256()), testP256()},
		"PKCS #8, Ed25519":    {pkcs8(testEd()), testEd()},
		"PKCS #1":             {pkcs1(), testRSA()},
		"SEC 1":               {sec1(), testP256()},
		"EC PARAMETERS first": {pemOf("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) + sec1(), testP256()},
		"certificate first":   {certificate + sec1(), testP256()},
		"text around":         {"Bag Attributes\n  a: b\n" + sec1() + "the end", testP256()},
		"Windows":             {strings.ReplaceAll(sec1(), "\n", "\r\n"), testP256()},
		"the first of two":    {sec1() + pkcs1(), testP256()},
	} {
		got, err := tokensource.ParsePrivateKey([]byte(c.text))
		if err != nil || !c.want.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Public()) {
			t.Errorf("%s: got %T, %v, want the %T", what, got, err, c.want)
			continue
		}
		signed(t, tokensource.SignedJWT{Key: got})
	}
}

func TestParsePrivateKeyTellsWhatIsThereInstead(t *testing.T) {
	public := pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(testP256().Public())))
	legacy := strings.Replace(pkcs1(), "\n", "\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\n", 1)
	for want, text := range map[string]string{
		"not PEM":                                    "garbage",
		"the PEM holds only CERTIFICATE":             certificate,
		"the PEM holds only PUBLIC KEY":              public,
		"the PEM is encrypted, decrypt it first":     pemOf("ENCRYPTED PRIVATE KEY", []byte("sealed")) + sec1(),
		"OPENSSH PRIVATE KEY is not supported":       pemOf("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00")),
		"DSA PRIVATE KEY is not supported":           pemOf("DSA PRIVATE KEY", []byte{0x30, 0}),
		"the PEM holds only CERTIFICATE, PUBLIC KEY": certificate + public + certificate,
		"a key of type *ecdh.PrivateKey cannot sign": pkcs8(must(ecdh.X25519().GenerateKey(rand.Reader))),
	} {
		wantNoKey(t, text, want)
	}
	for _, text := range []string{"", "\x00\xff", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nAA", strings.ReplaceAll(sec1(), "\n", `\n`), sec1()[:100]} {
		wantNoKey(t, text, "not PEM")
	}
	wantNoKey(t, legacy, "the PEM is encrypted, decrypt it first")
}

func wantNoKey(t *testing.T, text, want string) {
	t.Helper()
	key, err := tokensource.ParsePrivateKey([]byte(text))
	if want = "tokensource: private key: " + want; key != nil || err == nil || err.Error() != want {
		t.Errorf("%.60q: got %T, %v\nwant the error: %s", text, key, err, want)
	}
}

// broken are keys that x509 cannot read.
func broken() []string {
	der := must(x509.MarshalPKCS8PrivateKey(testP256()))
	return []string{
		pemOf("PRIVATE KEY", nil), pemOf("PRIVATE KEY", []byte("garbage")), pemOf("PRIVATE KEY", der[:len(der)-1]),
		pemOf("EC PRIVATE KEY", der), pemOf("RSA PRIVATE KEY", der), pemOf("PRIVATE KEY", x509.MarshalPKCS1PrivateKey(testRSA())),
		pemOf("RSA PRIVATE KEY", must(x509.MarshalECPrivateKey(testP256()))),
	}
}

func TestABrokenPrivateKeyIsAnErrorWithoutIt(t *testing.T) {
	for _, text := range broken() {
		key, err := tokensource.ParsePrivateKey([]byte(text))
		if key != nil || err == nil || !strings.HasPrefix(err.Error(), "tokensource: private key: ") || quotes(err.Error(), text) || strings.Contains(err.Error(), "<nil> cannot") {
			t.Errorf("%.60q: got %T, %v, want an error without the key", text, key, err)
		}
	}
}

// quotes reports whether message holds a piece of the PEM, as it is written there or as bytes.
func quotes(message, text string) bool {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		message = strings.ReplaceAll(message, block.Type, "") // which errors tell
		for piece := range slices.Chunk(block.Bytes, 9) {
			number := new(big.Int).SetBytes(piece).String()
			for _, s := range []string{string(piece), base64.StdEncoding.EncodeToString(piece), fmt.Sprintf("%x", piece), fmt.Sprint(piece), number} {
				if s = strings.Trim(s, "[]="); len(s) >= 9 && strings.Contains(message, s) {
					return true
				}
			}
		}
	}
	return false
}
