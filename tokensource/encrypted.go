package tokensource

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Encrypted is a [Store] that encrypts its values with AES-256-GCM and keeps them in
// another Store. It detects a value that was changed or moved to another key. It cannot
// detect an old value of the same key.
//
// To change the encryption key, add the new one in front, and keep the old one until
// each value has been saved again. If several processes share the Store, first add the
// new one behind the old one in all of them.
//
// Printed, logged or marshalled in any way, it shows no secret.
type Encrypted struct {
	// Store keeps the encrypted values.
	Store Store

	// Keys are the encryption keys, each of 32 random bytes. The first encrypts, all
	// decrypt. If there is none, or one has another length, every call fails.
	Keys [][]byte
}

// A sealed value is a header and the output of AES-GCM with a random nonce. The header
// is the magic, the version as its last byte, and the id of the key.
const (
	sealedMagic   = "tt-sealed"
	sealedVersion = 1
	keyIDSize     = 8
)

// Load decrypts the value in Store. A [StoreError] of Op "decode" says that none of
// Keys fits, that the value was changed or cut short, is not from an Encrypted, or has
// a newer version, or that Keys is unusable.
func (e *Encrypted) Load(ctx context.Context, key string) ([]byte, error) {
	if err := e.check(key); err != nil {
		return nil, err
	}
	value, err := e.Store.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	return e.open(key, value)
}

// Update decrypts the value for fn, and encrypts what fn saves. If it cannot decrypt
// the value, it returns an error as Load does, and does not call fn.
func (e *Encrypted) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if err := e.check(key); err != nil {
		return err
	}
	return e.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		opened, err := e.open(key, value)
		if err != nil {
			return err
		}
		return fn(opened, func(value []byte) error {
			sealed, err := e.seal(key, value)
			if err != nil {
				return err
			}
			return save(sealed)
		})
	})
}

func (e *Encrypted) check(key string) error {
	fail := func(text string) error { return &StoreError{opDecode, key, errors.New(text)} }
	if e.Store == nil {
		return fail("Encrypted.Store is nil")
	}
	if len(e.Keys) == 0 {
		return fail("Encrypted.Keys is empty")
	}
	for i, k := range e.Keys {
		if len(k) != 32 {
			return fail(fmt.Sprintf("Encrypted.Keys[%d] has %d bytes, want 32", i, len(k)))
		}
	}
	return nil
}

func (e *Encrypted) seal(key string, value []byte) ([]byte, error) {
	aead, err := aead(e.Keys[0])
	if err != nil {
		return nil, err
	}
	header := slices.Concat([]byte(sealedMagic), []byte{sealedVersion}, keyID(e.Keys[0]))
	return aead.Seal(header, nil, value, additional(header, key)), nil
}

func (e *Encrypted) open(key string, value []byte) ([]byte, error) {
	if value == nil {
		return nil, nil
	}
	fail := func(text string) ([]byte, error) { return nil, &StoreError{opDecode, key, errors.New(text)} }
	sealed, ok := bytes.CutPrefix(value, []byte(sealedMagic))
	if !ok || len(sealed) < 1+keyIDSize {
		return fail("the value is not encrypted by Encrypted, or was cut short")
	}
	if v := sealed[0]; v != sealedVersion {
		return fail(fmt.Sprintf("the encrypted value is of version %d, not %d", v, sealedVersion))
	}
	header, id, sealed := value[:len(sealedMagic)+1+keyIDSize], sealed[1:1+keyIDSize], sealed[1+keyIDSize:]
	for _, k := range e.Keys {
		if !bytes.Equal(keyID(k), id) {
			continue
		}
		aead, err := aead(k)
		if err != nil {
			return nil, err
		}
		opened, err := aead.Open([]byte{}, nil, sealed, additional(header, key))
		if err != nil {
			return fail("the encrypted value was changed, cut short, or moved from another key")
		}
		return opened, nil
	}
	return fail("the value was encrypted with none of Encrypted.Keys")
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// keyID returns an id of a key that reveals nothing about it.
func keyID(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, "tokentripper key id")
	return mac.Sum(nil)[:keyIDSize]
}

// additional binds a value to its header and to its key in the Store.
func additional(header []byte, key string) []byte { return append(slices.Clip(header), key...) }

// Format writes the type of Store for every verb.
func (e Encrypted) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, "encrypted %T with %d keys", e.Store, len(e.Keys))
}

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (e Encrypted) MarshalText() ([]byte, error) { return fmt.Append(nil, e), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no secret.
func (e Encrypted) MarshalBinary() ([]byte, error) { return nil, errBinary }
