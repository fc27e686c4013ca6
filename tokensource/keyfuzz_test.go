package tokensource_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"regexp"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// tellsKind is where an error tells what is in the PEM, which is no secret.
var tellsKind = regexp.MustCompile(`: (the PEM holds only .*|.* is not supported)$`)

// FuzzParsePrivateKey reads text, and after it a PEM block of a kind with any
// bytes in it. There is either a key, which is the same when it is written and
// read again, and which SignedJWT takes or refuses, or an error on one line
// without the key.
func FuzzParsePrivateKey(f *testing.F) {
	for _, text := range append(broken(), "", "garbage", certificate, sec1(), pkcs1(), pkcs8(testEd()), pkcs8(testRSA()), certificate+sec1()) {
		block, _ := pem.Decode([]byte(text))
		f.Add([]byte(text), "", []byte{})
		if block != nil {
			f.Add([]byte{}, block.Type, block.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, kind string, der []byte) {
		if block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}); kind != "" {
			text = append(bytes.Clone(text), block...)
		}
		before := bytes.Clone(text)
		key, err := tokensource.ParsePrivateKey(text)
		switch {
		case (key == nil) != (err != nil):
			t.Fatalf("got %T, %v, want either a key or an error", key, err)
		case err != nil && (strings.ContainsAny(err.Error(), "\r\n\x00") || quotes(tellsKind.ReplaceAllString(err.Error(), ""), string(text))):
			t.Fatalf("got %q, want one line without the key", err)
		case !bytes.Equal(text, before):
			t.Fatal("the text was changed")
		case key != nil:
			wantSameKey(t, key)
			// It may be too weak to sign, but not make SignedJWT panic.
			(&tokensource.SignedJWT{Key: key}).Token(t.Context(), nil)
		}
	})
}

// wantSameKey writes a key and reads it again.
func wantSameKey(t *testing.T, key crypto.Signer) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return // of a curve that is not written, say
	}
	again, err := tokensource.ParsePrivateKey([]byte(pemOf("PRIVATE KEY", der)))
	if err != nil {
		t.Fatalf("a key of %T was read and cannot be read again: %v", key, err)
	}
	if p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(again.Public()) {
		t.Fatalf("got the key %v after %v", again.Public(), key.Public())
	}
}
