package tokensource

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/jws"
)

// SignedJWT signs its own short-lived tokens (RFC 7519). Use it for APIs that trust a
// service's key, and as the assertion of [Endpoint], [JWTBearer] and others. For an
// API, put a [Cache] over it. As an assertion it needs no Cache, because each request
// needs a new one.
//
// Each token has a fresh jti. Its iat is a tenth of Lifetime in the past, at most a
// minute, for servers whose clock is behind.
//
// Printed, logged or marshalled in any way, it shows no secret.
type SignedJWT struct {
	// Key signs the tokens: RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521,
	// or Ed25519. Only Public and Sign are called, so the key may be in a KMS or an
	// HSM. See [ParsePrivateKey].
	Key crypto.Signer

	// Algorithm is RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or
	// EdDSA. Empty means the algorithm of the key's type and curve, and RS256 for RSA.
	Algorithm string

	// KeyID is kid, which tells the server which of its keys verifies the token. Empty
	// means none.
	KeyID string

	// Issuer and Subject are iss and sub. Empty means none. To authenticate a client,
	// set both to the client's id (RFC 7523 section 3).
	Issuer, Subject string

	// Audience is aud, the recipients of the token. An assertion needs it; some servers
	// expect their issuer there, others the URL of the token endpoint. None means no
	// aud.
	Audience []string

	// Lifetime is exp less iat, in whole seconds. Zero means 5 minutes. Less than a
	// second is an error.
	Lifetime time.Duration

	// Claims are further claims. A claim that a field or Token sets is an error. Nil
	// means none.
	Claims map[string]any

	// Header holds further header parameters, or another typ, such as at+jwt. Nil means
	// none.
	Header map[string]any
}

// Token signs a new token and ignores old. The error names the field that is wrong, or
// wraps the error of the key.
func (s *SignedJWT) Token(ctx context.Context, old *Token) (*Token, error) {
	signer, err := jws.New(s.Key, s.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("tokensource: SignedJWT.Key: %w", err)
	}
	life := cmp.Or(s.Lifetime, 5*time.Minute)
	if life < time.Second {
		return nil, errors.New("tokensource: SignedJWT.Lifetime is less than a second")
	}
	now := time.Now() // iat and exp have whole seconds
	issued := now.Add(-time.Duration(now.Nanosecond()) - min(life/10, time.Minute).Truncate(time.Second))
	expiry := issued.Add(life.Truncate(time.Second))
	claims, err := s.claims(issued, expiry)
	if err != nil {
		return nil, err
	}
	header, err := s.header()
	if err != nil {
		return nil, err
	}
	text, err := signer.Sign(header, claims)
	if err != nil {
		return nil, fmt.Errorf("tokensource: SignedJWT: %w", err)
	}
	return &Token{AccessToken: text, Expiry: expiry}, nil
}

func (s *SignedJWT) claims(issued, expiry time.Time) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{"iat": issued.Unix(), "exp": expiry.Unix(), "jti": rand.Text()}
	if s.Issuer != "" {
		claims["iss"] = s.Issuer
	}
	if s.Subject != "" {
		claims["sub"] = s.Subject
	}
	switch len(s.Audience) {
	case 0:
	case 1:
		claims["aud"] = s.Audience[0] // some servers insist on a string
	default:
		claims["aud"] = s.Audience
	}
	for name, value := range s.Claims {
		if _, ok := claims[name]; ok {
			return nil, fmt.Errorf("tokensource: SignedJWT.Claims: %q is set already", name)
		}
		claims[name] = value
	}
	return claims, nil
}

func (s *SignedJWT) header() (map[string]any, error) {
	header := make(map[string]any)
	for name, value := range s.Header {
		if name == "alg" || name == "kid" {
			return nil, fmt.Errorf("tokensource: SignedJWT.Header: %q has its own field", name)
		}
		header[name] = value
	}
	if s.KeyID != "" {
		header["kid"] = s.KeyID
	}
	return header, nil
}

// String returns the issuer and the key id, without a secret.
func (s SignedJWT) String() string {
	return fmt.Sprintf("JWT signed by issuer %q, key id %q", s.Issuer, s.KeyID)
}

// Format writes [SignedJWT.String] for every verb.
func (s SignedJWT) Format(f fmt.State, verb rune) { io.WriteString(f, s.String()) }

// MarshalText returns [SignedJWT.String], so that JSON, XML and slog show no secret.
func (s SignedJWT) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no secret.
func (s SignedJWT) MarshalBinary() ([]byte, error) { return nil, errBinary }

// ParsePrivateKey reads the first private key in a PEM text: PKCS #8, PKCS #1 or SEC 1.
// If there is none, the error says what the text holds instead. You must decrypt an
// encrypted key first.
func ParsePrivateKey(text []byte) (crypto.Signer, error) {
	var seen []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, errors.New("tokensource: private key: the PEM is encrypted, decrypt it first")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return parseKey(block)
		}
		if kind := printable(block.Type, maxWord); !slices.Contains(seen, kind) {
			seen = append(seen, kind)
		}
	}
	if len(seen) > 0 {
		return nil, fmt.Errorf("tokensource: private key: the PEM holds only %s", strings.Join(seen, ", "))
	}
	return nil, errors.New("tokensource: private key: not PEM")
}

func parseKey(block *pem.Block) (key crypto.Signer, err error) {
	var parsed any
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("tokensource: private key: %s is not supported", printable(block.Type, maxWord))
	}
	if err != nil {
		return nil, fmt.Errorf("tokensource: private key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("tokensource: private key: a key of type %T cannot sign", parsed)
	}
	return key, nil
}
