package tokentest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

var (
	errNotJWT       = errors.New("not a JWT")
	errNoTrustedKey = errors.New("no trusted key has made the signature with this alg")
)

// TrustKey makes the server also trust the JWTs that this key signs, whatever their
// kid. They authenticate the client at TokenURL by the method private_key_jwt (RFC 7523
// section 2.2), or are the assertion of the grant jwt-bearer (RFC 7523 section 2.1).
//
// The key is an [*rsa.PublicKey] for RS256 to RS512 and PS256 to PS512, an
// [*ecdsa.PublicKey] on P-256 for ES256, on P-384 for ES384 or on P-521 for ES512, or
// an [ed25519.PublicKey] for EdDSA. TrustKey panics for any other key.
func (s *Server) TrustKey(key crypto.PublicKey) {
	if algorithms(key) == nil {
		panic(fmt.Sprintf("tokentest: cannot trust a key of type %T", key))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted = append(s.trusted, key)
}

// trustedFor returns the trusted keys that fit alg.
func (s *Server) trustedFor(alg string) jwt.VerificationKeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	var set jwt.VerificationKeySet
	for _, key := range s.trusted {
		if slices.Contains(algorithms(key), alg) {
			set.Keys = append(set.Keys, key)
		}
	}
	return set
}

// parseTrusted checks only the signature.
func (s *Server) parseTrusted(raw string, c jwt.Claims) error {
	_, err := jwt.ParseWithClaims(raw, c,
		func(t *jwt.Token) (any, error) { return s.trustedFor(t.Method.Alg()), nil },
		jwt.WithoutClaimsValidation())
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return errNotJWT
	case err != nil:
		return errNoTrustedKey
	}
	return nil
}

// algorithms returns the algorithms of a key by RFC 7518 and RFC 8037, or nil for a key
// that the server cannot use.
func algorithms(key crypto.PublicKey) []string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		return curveAlgorithms[key.Params().BitSize]
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	}
	return nil
}

var curveAlgorithms = map[int][]string{256: {"ES256"}, 384: {"ES384"}, 521: {"ES512"}}
