// Package jws signs JSON Web Tokens (RFC 7515) with any crypto.Signer, such as a key in
// a KMS or an HSM, which shows only its public half.
package jws

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// minRSABits is the minimum of RFC 7518 section 3.3.
const minRSABits = 2048

// A Signer signs with one key and one algorithm. It is safe for concurrent use
// if the key is.
type Signer struct {
	jwt.SigningMethod // of golang-jwt, except Sign

	key    crypto.Signer
	public crypto.PublicKey
	opts   crypto.SignerOpts
	size   int // of each half of an ECDSA signature
}

// An algorithm of RFC 7518 section 3.1 or RFC 8037 section 3.1.
type algorithm struct {
	opts  crypto.SignerOpts
	curve elliptic.Curve // nil unless ECDSA
}

var algorithms = map[string]algorithm{
	"RS256": {opts: crypto.SHA256},
	"RS384": {opts: crypto.SHA384},
	"RS512": {opts: crypto.SHA512},
	"PS256": {opts: &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}},
	"PS384": {opts: &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA384}},
	"PS512": {opts: &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA512}},
	"ES256": {opts: crypto.SHA256, curve: elliptic.P256()},
	"ES384": {opts: crypto.SHA384, curve: elliptic.P384()},
	"ES512": {opts: crypto.SHA512, curve: elliptic.P521()},
	"EdDSA": {opts: crypto.Hash(0)},
}

// New returns a Signer for the algorithm. If name is empty, it takes the key's default:
// RS256, ES256, ES384, ES512 or EdDSA. The error says what is wrong with the key, or
// that key and algorithm do not fit.
func New(key crypto.Signer, name string) (s *Signer, err error) {
	defer func() {
		if recover() != nil { // of a nil pointer in the interface, or an empty key
			s, err = nil, errors.New("the key is nil or empty")
		}
	}()
	if key == nil {
		return nil, errors.New("the key is nil")
	}
	public := key.Public()
	own, kind, err := of(public)
	if err != nil {
		return nil, err
	}
	name = cmp.Or(name, own)
	a, ok := algorithms[name]
	if !ok {
		return nil, fmt.Errorf("the algorithm %q is not known", name)
	}
	if own != name && !(own == "RS256" && a.curve == nil && name != "EdDSA") {
		return nil, fmt.Errorf("%s does not fit %s", name, kind)
	}
	s = &Signer{SigningMethod: jwt.GetSigningMethod(name), key: key, public: public, opts: a.opts}
	if a.curve != nil {
		s.size = (a.curve.Params().BitSize + 7) / 8
	}
	return s, nil
}

// of returns the default algorithm of a key, and what kind of key it is.
func of(public crypto.PublicKey) (name, kind string, err error) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("an RSA key of %d bits", p.N.BitLen())
		if p.N.BitLen() < minRSABits {
			return "", "", fmt.Errorf("%s is too short: it needs %d", kind, minRSABits)
		}
		return "RS256", kind, nil
	case *ecdsa.PublicKey:
		for _, name := range []string{"ES256", "ES384", "ES512"} {
			if algorithms[name].curve != p.Curve {
				continue
			}
			if _, err := p.Bytes(); err != nil {
				return "", "", errors.New("the key is not a point of its curve")
			}
			return name, "a " + p.Curve.Params().Name + " key", nil
		}
		return "", "", errors.New("the curve of the key is none of P-256, P-384 and P-521")
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return "", "", errors.New("the Ed25519 key has a wrong length")
		}
		return "EdDSA", "an Ed25519 key", nil
	}
	return "", "", fmt.Errorf("a key of type %T cannot sign: it must be RSA, ECDSA or Ed25519", public)
}

// Sign signs the claims. The header parameters are added to alg and typ, and may
// replace typ.
func (s *Signer) Sign(header map[string]any, claims jwt.Claims) (string, error) {
	token := jwt.NewWithClaims(method{s}, claims)
	maps.Copy(token.Header, header)
	return token.SignedString(nil)
}

// A method adapts a Signer to golang-jwt.
type method struct{ *Signer }

// Sign returns the signature of text in the form of RFC 7518 section 3.
func (m method) Sign(text string, _ any) ([]byte, error) {
	signature, err := m.ask(text)
	if err != nil {
		return nil, fmt.Errorf("the key did not sign: %w", err)
	}
	if m.size == 0 {
		return signature, nil
	}
	var der struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(signature, &der)
	fits := func(n *big.Int) bool { return n.Sign() > 0 && n.BitLen() <= 8*m.size }
	if err != nil || len(rest) > 0 || !fits(der.R) || !fits(der.S) {
		return nil, errors.New("the key did not sign: its signature is not one of ECDSA in ASN.1")
	}
	raw := make([]byte, 2*m.size)
	der.R.FillBytes(raw[:m.size])
	der.S.FillBytes(raw[m.size:])
	return raw, nil
}

// ask asks the key for a signature. A key without its private half may panic.
func (m method) ask(text string) (signature []byte, err error) {
	defer func() {
		if recover() != nil {
			signature, err = nil, errors.New("it panicked")
		}
	}()
	return crypto.SignMessage(m.key, rand.Reader, []byte(text), m.opts)
}
