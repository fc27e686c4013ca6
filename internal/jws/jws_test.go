package jws_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/jws"
)

// An RSA key takes long to find.
var (
	rsaKey  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	weakKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 1024)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))
}

func edKey() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)
}

// signing are keys with the algorithms that fit them, their own first.
func signing() map[crypto.Signer][]string {
	ed := edKey()
	return map[crypto.Signer][]string{
		rsaKey():               {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
		ecKey(elliptic.P256()): {"ES256"},
		ecKey(elliptic.P384()): {"ES384"},
		ecKey(elliptic.P521()): {"ES512"},
		&ed:                    {"EdDSA"},
	}
}

// A remote key shows only its public half, as one in a KMS does.
type remote struct{ key crypto.Signer }

func (r remote) Public() crypto.PublicKey { return r.key.Public() }
func (r remote) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.key.Sign(random, digest, opts)
}

// A hashing key takes whole messages and nothing else.
type hashing struct{ key crypto.Signer }

func (h hashing) Public() crypto.PublicKey { return h.key.Public() }
func (h hashing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("this key signs no digests")
}
func (h hashing) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	return crypto.SignMessage(h.key, random, message, opts)
}

// A fixed key has any public half, and answers any signature or error.
type fixed struct {
	public    crypto.PublicKey
	signature []byte
	err       error
}

func (f fixed) Public() crypto.PublicKey { return f.public }
func (f fixed) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return f.signature, f.err
}

func TestEveryAlgorithmSignsWithEveryKindOfSigner(t *testing.T) {
	for key, names := range signing() {
		for _, name := range names {
			for _, signer := range []crypto.Signer{key, remote{key}, hashing{key}} {
				s, err := jws.New(signer, name)
				if err != nil {
					t.Errorf("%s by %T: got %v, want a Signer", name, signer, err)
					continue
				}
				wantVerified(t, s, key.Public(), name)
			}
		}
	}
}

// wantVerified signs claims and lets golang-jwt check them.
func wantVerified(t *testing.T, s *jws.Signer, public crypto.PublicKey, name string) {
	t.Helper()
	text, err := s.Sign(map[string]any{"kid": "k1"}, jwt.MapClaims{"sub": "app"})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	got, err := jwt.Parse(text, func(*jwt.Token) (any, error) { return public, nil }, jwt.WithValidMethods([]string{name}), jwt.WithStrictDecoding())
	if err != nil {
		t.Fatalf("%s: got a JWT that does not verify: %v", name, err)
	}
	if want := (map[string]any{"alg": name, "typ": "JWT", "kid": "k1"}); !reflect.DeepEqual(got.Header, want) {
		t.Errorf("got the header %v, want %v", got.Header, want)
	}
	if want := (jwt.MapClaims{"sub": "app"}); !reflect.DeepEqual(got.Claims, want) {
		t.Errorf("got the claims %v, want %v", got.Claims, want)
	}
}

func TestWithoutANameTheAlgorithmIsTheKeysOwn(t *testing.T) {
	for key, names := range signing() {
		s, err := jws.New(remote{key}, "")
		if err != nil || s.Alg() != names[0] {
			t.Errorf("%T: got %v, %v, want %s", key, s, err, names[0])
			continue
		}
		wantVerified(t, s, key.Public(), names[0])
	}
}

func TestAKeyServesNoAlgorithmButItsOwn(t *testing.T) {
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	for key, fit := range signing() {
		for _, name := range all {
			_, err := jws.New(key, name)
			if slices.Contains(fit, name) != (err == nil) {
				t.Errorf("%s with %T: got %v, want an error unless it is one of %v", name, key, err, fit)
			}
			if err != nil && !strings.HasPrefix(err.Error(), name+" does not fit a") {
				t.Errorf("%s with %T: got %v, want it to name both", name, key, err)
			}
		}
	}
}

func TestAnUnknownAlgorithmIsRefused(t *testing.T) {
	for key := range signing() {
		for _, name := range []string{"none", "None", "HS256", "HS512", "ES256K", "Ed25519", "rs256", "RS256 ", "RS1"} {
			_, err := jws.New(key, name)
			if want := "the algorithm \"" + name + "\" is not known"; err == nil || err.Error() != want {
				t.Errorf("%T: got %v, want: %s", key, err, want)
			}
		}
	}
}

func TestAWeakOrUnknownKeyIsRefused(t *testing.T) {
	bad := &ecdsa.PublicKey{Curve: elliptic.P256()}
	//lint:ignore SA1019 there is no other way to a point off the curve
	bad.X, bad.Y = big.NewInt(1), big.NewInt(1)
	for want, public := range map[string]crypto.PublicKey{
		"an RSA key of 1024 bits is too short: it needs 2048":                           weakKey().Public(),
		"the curve of the key is none of P-256, P-384 and P-521":                        ecKey(elliptic.P224()).Public(),
		"the key is not a point of its curve":                                           bad,
		"the Ed25519 key has a wrong length":                                            ed25519.PublicKey("short"),
		"a key of type <nil> cannot sign: it must be RSA, ECDSA or Ed25519":             nil,
		"a key of type []uint8 cannot sign: it must be RSA, ECDSA or Ed25519":           []byte("secret"),
		"a key of type rsa.PublicKey cannot sign: it must be RSA, ECDSA or Ed25519":     rsaKey().PublicKey,
		"a key of type *ecdh.PublicKey cannot sign: it must be RSA, ECDSA or Ed25519":   must(ecdh.X25519().GenerateKey(rand.Reader)).Public(),
		"a key of type *ecdsa.PrivateKey cannot sign: it must be RSA, ECDSA or Ed25519": ecKey(elliptic.P256()),
	} {
		for _, name := range []string{"", "RS256", "ES256", "EdDSA"} {
			if _, err := jws.New(fixed{public: public}, name); err == nil || err.Error() != want {
				t.Errorf("%T as %q: got %v, want: %s", public, name, err, want)
			}
		}
	}
}

func TestAnEmptyKeyIsAnErrorAndNoPanic(t *testing.T) {
	var typedNil *fixed
	for _, key := range []crypto.Signer{
		nil, typedNil,
		(*rsa.PrivateKey)(nil), (*ecdsa.PrivateKey)(nil), ed25519.PrivateKey(nil), (*ed25519.PrivateKey)(nil), remote{},
		&rsa.PrivateKey{}, &ecdsa.PrivateKey{}, ed25519.PrivateKey{}, ed25519.PrivateKey(make([]byte, 31)),
		fixed{public: (*rsa.PublicKey)(nil)}, fixed{public: (*ecdsa.PublicKey)(nil)}, fixed{public: ed25519.PublicKey(nil)},
		fixed{public: &rsa.PublicKey{}}, fixed{public: &ecdsa.PublicKey{}},
		&ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: elliptic.P256()}},
	} {
		for _, name := range []string{"", "RS256", "ES256", "EdDSA"} {
			if s, err := jws.New(key, name); err == nil || s != nil {
				t.Errorf("%T as %q: got %v, want an error", key, name, s)
			}
		}
	}
}

func TestAKeyWithoutItsPrivateHalfIsAnErrorAndNoPanic(t *testing.T) {
	for what, key := range map[string]crypto.Signer{
		"RSA":            &rsa.PrivateKey{PublicKey: rsaKey().PublicKey},
		"RSA, no E":      &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: rsaKey().N}},
		"ECDSA":          &ecdsa.PrivateKey{PublicKey: ecKey(elliptic.P256()).PublicKey},
		"Ed25519, long":  append(edKey(), 0),
		"Ed25519, short": edKey()[:40],
	} {
		s, err := jws.New(key, "")
		if err == nil {
			_, err = s.Sign(nil, jwt.MapClaims{})
		}
		if err == nil {
			t.Errorf("%s: got a signature, want an error", what)
		}
	}
}

func TestAKeyThatFailsToSignIsTold(t *testing.T) {
	broken := errors.New("the HSM is away")
	for key, names := range signing() {
		for _, name := range names {
			s := must(jws.New(fixed{public: key.Public(), err: broken}, name))
			text, err := s.Sign(nil, jwt.MapClaims{})
			if text != "" || !errors.Is(err, broken) || !strings.Contains(err.Error(), "the key did not sign: the HSM") {
				t.Errorf("%s: got %q, %v, want %v wrapped", name, text, err, broken)
			}
		}
	}
}

// der writes an ECDSA signature in ASN.1.
func der(r, s *big.Int) []byte { return must(asn1.Marshal(struct{ R, S *big.Int }{r, s})) }

func TestASignatureThatIsNoneIsAnError(t *testing.T) {
	one, huge := big.NewInt(1), new(big.Int).Lsh(big.NewInt(1), 600)
	for what, signature := range map[string][]byte{
		"none":              nil,
		"garbage":           []byte("garbage"),
		"raw":               make([]byte, 64),
		"zero":              der(new(big.Int), one),
		"negative":          der(one, big.NewInt(-1)),
		"r too large":       der(huge, one),
		"s too large":       der(one, huge),
		"bytes after it":    append(der(one, one), 0),
		"two signatures":    append(der(one, one), der(one, one)...),
		"cut off":           der(one, one)[:5],
		"a number only":     must(asn1.Marshal(1)),
		"numbers as text":   must(asn1.Marshal(struct{ R, S string }{"1", "1"})),
		"an empty sequence": {0x30, 0},
	} {
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			s := must(jws.New(fixed{public: ecKey(curve).Public(), signature: signature}, ""))
			if text, err := s.Sign(nil, jwt.MapClaims{}); text != "" || err == nil || !strings.Contains(err.Error(), "not one of ECDSA") {
				t.Errorf("%s on %s: got %q, %v, want an error", what, curve.Params().Name, text, err)
			}
		}
	}
}

func TestASmallNumberInASignatureIsPadded(t *testing.T) {
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		size := map[string]int{"ES256": 32, "ES384": 48, "ES512": 66}[name]
		s := must(jws.New(fixed{public: ecKey(curve).Public(), signature: der(big.NewInt(1), big.NewInt(2))}, ""))
		text := must(s.Sign(nil, jwt.MapClaims{}))
		want := make([]byte, 2*size)
		want[size-1], want[2*size-1] = 1, 2
		if got := must(base64.RawURLEncoding.DecodeString(text[strings.LastIndex(text, ".")+1:])); !slices.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
}

// RFC 7518 section 3.5; golang-jwt takes any salt.
func TestTheSaltOfPSSIsAsLongAsTheHash(t *testing.T) {
	for name, hash := range map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512} {
		text := must(must(jws.New(rsaKey(), name)).Sign(nil, jwt.MapClaims{}))
		i := strings.LastIndex(text, ".")
		digest := hash.New()
		io.WriteString(digest, text[:i])
		signature := must(base64.RawURLEncoding.DecodeString(text[i+1:]))
		opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		if err := rsa.VerifyPSS(&rsaKey().PublicKey, hash, digest.Sum(nil), signature, opts); err != nil {
			t.Errorf("%s: got %v, want a salt of %d bytes", name, err, hash.Size())
		}
	}
}

func TestTheHeaderMayReplaceTypAndNothingIsSharedWithIt(t *testing.T) {
	s := must(jws.New(edKey(), ""))
	header := map[string]any{"typ": "dpop+jwt"}
	text := must(s.Sign(header, jwt.MapClaims{}))
	got, _, err := jwt.NewParser().ParseUnverified(text, jwt.MapClaims{})
	if want := (map[string]any{"alg": "EdDSA", "typ": "dpop+jwt"}); err != nil || !reflect.DeepEqual(got.Header, want) {
		t.Errorf("got %v, %v, want %v", got.Header, err, want)
	}
	if len(header) != 1 {
		t.Errorf("the caller's header became %v", header)
	}
}

func TestWhatJSONCannotEncodeIsAnError(t *testing.T) {
	s := must(jws.New(edKey(), ""))
	for what, sign := range map[string]func() (string, error){
		"claims": func() (string, error) { return s.Sign(nil, jwt.MapClaims{"c": make(chan int)}) },
		"header": func() (string, error) { return s.Sign(map[string]any{"h": func() {}}, jwt.MapClaims{}) },
	} {
		if text, err := sign(); text != "" || err == nil {
			t.Errorf("%s: got %q, %v, want an error", what, text, err)
		}
	}
}

func TestASignerIsSafeForConcurrentUse(t *testing.T) {
	key := ecKey(elliptic.P256())
	s := must(jws.New(key, ""))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { wantVerified(t, s, key.Public(), "ES256") })
	}
	wg.Wait()
}

// The thumbprints are those of RFC 9449 section 6.1 and RFC 8037 appendix A.3.
func TestThumbprintsAreThoseOfTheRFCs(t *testing.T) {
	for want, key := range map[string]jws.JWK{
		"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I": {Type: "EC", Curve: "P-256",
			X: "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", Y: "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"},
		"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k": {Type: "OKP", Curve: "Ed25519",
			X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
	} {
		s := must(jws.New(fixed{public: publicOf(key)}, ""))
		got, err := s.JWK()
		if err != nil || got != key || got.Thumbprint() != want {
			t.Errorf("got %+v with thumbprint %s, %v, want %+v with %s", got, got.Thumbprint(), err, key, want)
		}
	}
}

func publicOf(key jws.JWK) crypto.PublicKey {
	x, y := must(base64.RawURLEncoding.DecodeString(key.X)), must(base64.RawURLEncoding.DecodeString(key.Y))
	if key.Type == "OKP" {
		return ed25519.PublicKey(x)
	}
	return must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)))
}

// A coordinate that begins with zeros keeps them (RFC 7518 section 6.2.1.2).
func TestTheCoordinatesOfAJWKHaveTheLengthOfTheCurve(t *testing.T) {
	for curve, size := range map[elliptic.Curve]int{elliptic.P256(): 43, elliptic.P384(): 64, elliptic.P521(): 88} {
		for range 20 {
			key, err := must(jws.New(ecKey(curve), "")).JWK()
			if err != nil || len(key.X) != size || len(key.Y) != size || key.Curve != curve.Params().Name {
				t.Fatalf("got %+v, %v, want %s and coordinates of %d characters", key, err, curve.Params().Name, size)
			}
		}
	}
}

func TestAnRSAKeyHasNoJWK(t *testing.T) {
	if key, err := must(jws.New(rsaKey(), "")).JWK(); err == nil || key != (jws.JWK{}) {
		t.Errorf("got %+v, %v, want an error", key, err)
	}
}
