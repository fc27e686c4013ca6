package tokensource_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// readLifetime reads exp less iat of a JWT by encoding/json alone, and with big
// numbers. If there is no iat, the life counts from began. ok is false where they are
// so large, or so strangely spelled, that readers may differ.
func readLifetime(token string, began time.Time) (life time.Duration, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, true
	}
	var header, claims map[string]json.RawMessage
	for i, into := range []*map[string]json.RawMessage{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		var floats map[string]any // no other claim may have a number that no float has
		if err != nil || json.Unmarshal(data, into) != nil || json.Unmarshal(data, &floats) != nil {
			return 0, true
		}
	}
	if _, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return 0, false // no JWT, but who does not check a signature need not see that
	}
	exp, iat := wholeSeconds(claims["exp"]), wholeSeconds(claims["iat"])
	if exp == nil {
		return 0, true
	}
	if iat == nil {
		iat = big.NewInt(began.Unix())
	}
	farthest := big.NewInt(1e11)
	if exp.CmpAbs(farthest) > 0 || iat.CmpAbs(farthest) > 0 {
		return 0, false
	}
	seconds := new(big.Int).Sub(exp, iat).Int64()
	return min(max(time.Duration(seconds), 0), absurd/time.Second) * time.Second, true
}

// wholeSeconds is the second that a NumericDate of RFC 7519 section 2 lies in;
// nil for what is no number. One with more digits than floats have, or than
// nanoseconds that come from floats, or far from now, is farther than readLifetime goes.
func wholeSeconds(data json.RawMessage) *big.Int {
	text := string(bytes.TrimSpace(data))
	f, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return nil
	case len(text) > 14 || math.Abs(f) > 1e11 || math.Abs(f) < 1e-8:
		return big.NewInt(1e12)
	}
	n, _ := new(big.Rat).SetString(text)
	if !new(big.Rat).Mul(n, big.NewRat(1e8, 1)).IsInt() {
		return big.NewInt(1e12)
	}
	return new(big.Int).Div(n.Num(), n.Denom()) // rounds down
}

// FuzzLifetime obtains a token that is a JWT, or looks like one. Its Expiry is
// where exp and iat, read by other means, say it is, or it has none; it is never
// absurd, and the token itself is never lost.
func FuzzLifetime(f *testing.F) {
	for _, claims := range []string{`{}`, `[]`, `null`, `{"iat":1,"exp":"2"}`} {
		f.Add(`{"alg":"RS256"}`, claims, "c2ln")
	}
	f.Fuzz(func(t *testing.T, header, claims, rest string) {
		enc := base64.RawURLEncoding.EncodeToString
		token := enc([]byte(header)) + "." + enc([]byte(claims)) + "." + rest
		if !visible(token) {
			return // which FuzzReply plays with
		}
		body, err := json.Marshal(map[string]string{"access_token": token})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			tok, err := endpointReply(200, http.Header{}, string(body)).Exchange(t.Context(), anyGrant)
			if err != nil || tok.AccessToken != token {
				t.Fatalf("%q, %q: got %v, %v, want the token", header, claims, tok, err)
			}
			got := life(tok.Expiry, began)
			if want, ok := readLifetime(token, began); got < 0 || got > absurd || ok && got != want {
				t.Fatalf("%q, %q: got a life of %v, want %v", header, claims, got, want)
			}
		})
	})
}
