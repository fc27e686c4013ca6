package jws

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// A JWK is a public key for the header of a proof (RFC 7517, RFC 8037). Its fields are
// in the order of RFC 7638 section 3.2, so that its JSON is the input of the
// thumbprint.
type JWK struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	Y     string `json:"y,omitempty"`
}

// JWK returns the public key. It fails for RSA, which has no use here.
func (s *Signer) JWK() (JWK, error) {
	switch p := s.public.(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes() // 4, X, Y
		if err != nil {
			return JWK{}, err
		}
		return JWK{Curve: p.Params().Name, Type: "EC", X: encode(point[1 : 1+s.size]), Y: encode(point[1+s.size:])}, nil
	case ed25519.PublicKey:
		return JWK{Curve: "Ed25519", Type: "OKP", X: encode(p)}, nil
	}
	return JWK{}, fmt.Errorf("a key of type %T has no JWK here", s.public)
}

// Thumbprint returns the key's SHA-256 thumbprint (RFC 7638).
func (k JWK) Thumbprint() string {
	text, _ := json.Marshal(k) // of strings that need no escaping
	return Hash(string(text))
}

// Hash returns the SHA-256 of text in base64url, as thumbprints and ath are written.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return encode(sum[:])
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
