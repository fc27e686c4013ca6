package interop_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"

	"github.com/tokentripper/tokentripper/tokensource"
)

var rsaKey = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })

func ecKey(curve elliptic.Curve) func() crypto.Signer {
	return func() crypto.Signer { return must(ecdsa.GenerateKey(curve, rand.Reader)) }
}

// A keyed is a client that authenticates by a JWT (private_key_jwt).
type keyed struct {
	tokensource.Endpoint
	assertion *tokensource.SignedJWT
}

// keyed registers a client with a key. Its assertion is as it should be.
func (s *server) keyed(t *testing.T, algorithm string, key crypto.Signer) *keyed {
	t.Helper()
	const id, kid = "service", "2026-1"
	s.register(t, fosite.DefaultOpenIDConnectClient{
		TokenEndpointAuthMethod:           "private_key_jwt",
		TokenEndpointAuthSigningAlgorithm: algorithm,
		JSONWebKeys:                       &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: kid, Use: "sig"}}},
	}, id, "")
	jwt := &tokensource.SignedJWT{
		Key: key, Algorithm: algorithm, KeyID: kid,
		Issuer: id, Subject: id, Audience: []string{s.tokenURL()},
	}
	return &keyed{tokensource.Endpoint{URL: s.tokenURL(), Client: s.Client, ClientID: id, ClientAssertion: jwt}, jwt}
}

func TestAClientAssertionIsAcceptedWithEachAlgorithm(t *testing.T) {
	for algorithm, key := range map[string]func() crypto.Signer{
		"RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey, "PS512": rsaKey,
		"ES256": ecKey(elliptic.P256()), "ES384": ecKey(elliptic.P384()), "ES512": ecKey(elliptic.P521()),
	} {
		s := newServer(t, fosite.Config{})
		source := &tokensource.ClientCredentials{Endpoint: s.keyed(t, algorithm, key()).Endpoint}
		client := s.client(&tokensource.Cache{Source: source})
		if err := s.call(client, 0); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		if _, err := source.Token(t.Context(), nil); err != nil {
			t.Errorf("%s, a second assertion: %v", algorithm, err)
		}
	}
}

func TestAnAlgorithmThatTheServerLacksIsNamed(t *testing.T) {
	s := newServer(t, fosite.Config{})
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	source := &tokensource.ClientCredentials{Endpoint: s.keyed(t, "EdDSA", key).Endpoint}
	_, err = source.Token(t.Context(), nil)
	if e := refusal(t, err, "invalid_client"); !strings.Contains(e.Description, "unsupported signing algorithm 'EdDSA'") {
		t.Errorf("got description %q", e.Description)
	}
}

// again signs once, and then supplies the same JWT, whatever its age.
func again(source tokensource.Source) tokensource.Source {
	sign := sync.OnceValue(func() string { return must(source.Token(context.Background(), nil)).AccessToken })
	return tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return &tokensource.Token{AccessToken: sign()}, nil
	})
}

// expired supplies a JWT that was signed an hour ago. It must be called in a bubble.
func expired(source tokensource.Source) tokensource.Source {
	stale := again(source)
	must(stale.Token(context.Background(), nil))
	time.Sleep(time.Hour)
	return stale
}

func TestABadClientAssertionIsNoReasonToLogIn(t *testing.T) {
	for name, bad := range map[string]struct {
		spoil             func(*keyed)
		code, description string
	}{
		"wrong audience": {func(k *keyed) { k.assertion.Audience = []string{"https://another.example.com"} },
			"invalid_client", "must match the authorization server's token endpoint"},
		"wrong issuer": {func(k *keyed) { k.assertion.Issuer = "another" },
			"invalid_client", "Claim 'iss' from 'client_assertion' must match"},
		"wrong key": {func(k *keyed) { k.assertion.Key = ecKey(elliptic.P256())() },
			"invalid_client", "Unable to verify the integrity"},
		"unknown key id": {func(k *keyed) { k.assertion.KeyID = "2025-1" },
			"invalid_request", "kid '2025-1', which could not be found"},
		"reused": {func(k *keyed) {
			k.ClientAssertion = again(k.assertion)
			must((&tokensource.ClientCredentials{Endpoint: k.Endpoint}).Token(context.Background(), nil))
		},
			"jti_known", "MUST only be used once"},
		// Fosite forgets that the client is to blame, and answers 500.
		"expired": {func(k *keyed) { k.ClientAssertion = expired(k.assertion) },
			"error", "unrecognizable"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServerInBubble(t, fosite.Config{})
			good := s.keyed(t, "ES256", ecKey(elliptic.P256())())
			spoiled := &keyed{good.Endpoint, new(*good.assertion)}
			spoiled.ClientAssertion = spoiled.assertion
			refresh := s.login(t, good.Endpoint).RefreshToken

			bad.spoil(spoiled)
			_, err := (&tokensource.RefreshToken{Endpoint: spoiled.Endpoint, RefreshToken: refresh}).Token(t.Context(), nil)
			if e := refusal(t, err, bad.code); !strings.Contains(e.Description, bad.description) {
				t.Errorf("%s: got description %q, want %q", name, e.Description, bad.description)
			}
			// The refresh token was not spent.
			if _, err := (&tokensource.RefreshToken{Endpoint: good.Endpoint, RefreshToken: refresh}).Token(t.Context(), nil); err != nil {
				t.Errorf("%s, then a good assertion: %v", name, err)
			}
		})
	}
}

func TestADeadRefreshTokenBesideAClientAssertionIsToldAfterTwoRefusals(t *testing.T) {
	s := newServer(t, fosite.Config{})
	source := &tokensource.RefreshToken{Endpoint: s.keyed(t, "RS256", rsaKey()).Endpoint, RefreshToken: "dead"}
	if _, err := source.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, want ErrReauthenticate", err)
	}
}
