package tokentest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
)

// A publicJWK is the public key in the header of a proof.
type publicJWK struct {
	key        crypto.PublicKey
	thumbprint string // RFC 7638, with SHA-256
}

// parseJWK accepts the public keys that fit ES256 and EdDSA.
func parseJWK(header any) (publicJWK, error) {
	members, ok := header.(map[string]any)
	if !ok {
		return publicJWK{}, errors.New("no jwk")
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, private := members[name]; private {
			return publicJWK{}, errors.New("the jwk holds a private key")
		}
	}
	text := func(name string) string { s, _ := members[name].(string); return s }
	switch [2]string{text("kty"), text("crv")} {
	case [2]string{"EC", "P-256"}:
		return parseP256(text("x"), text("y"))
	case [2]string{"OKP", "Ed25519"}:
		return parseEd25519(text("x"))
	}
	return publicJWK{}, errors.New("the jwk is neither a P-256 nor an Ed25519 key")
}

var errBadJWK = errors.New("the jwk is not a point of its curve")

func parseP256(x, y string) (publicJWK, error) {
	xBytes, yBytes := coordinate(x), coordinate(y)
	if xBytes == nil || yBytes == nil {
		return publicJWK{}, errBadJWK
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, xBytes, yBytes))
	if err != nil {
		return publicJWK{}, errBadJWK
	}
	return publicJWK{key, hash(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`)}, nil
}

func parseEd25519(x string) (publicJWK, error) {
	xBytes := coordinate(x)
	if xBytes == nil {
		return publicJWK{}, errBadJWK
	}
	return publicJWK{ed25519.PublicKey(xBytes), hash(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`)}, nil
}

// coordinate returns nil unless s is the only correct encoding of 32 bytes: a key with
// two encodings would have two thumbprints.
func coordinate(s string) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 || base64.RawURLEncoding.EncodeToString(b) != s {
		return nil
	}
	return b
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
