package tokensource_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// absurd is longer than any lifetime that is believed.
const absurd = 30 * 365 * 24 * time.Hour

// obtained is the token of a reply that takes a second, and the moment of the request.
func obtained(t *testing.T, body string) (*tokensource.Token, time.Time) {
	t.Helper()
	e := tokensource.Endpoint{URL: "https://login.example.com", Client: &http.Client{Transport: endpointFunc(func(*http.Request) (*http.Response, error) {
		<-time.After(time.Second) // fake time
		return &http.Response{StatusCode: 200, Header: contentType("application/json"), Body: io.NopCloser(strings.NewReader(body))}, nil
	})}}
	began := time.Now()
	tok, err := e.Exchange(t.Context(), anyGrant)
	if err != nil || tok.RefreshToken != "rt" {
		t.Fatalf("%s: got %v, %v, want a token with its refresh token", body, tok, err)
	}
	return tok, began
}

// life is how long after began a moment is; zero for no moment.
func life(at, began time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return at.Sub(began)
}

func TestExpiresInCountsFromBeforeTheRequestWhateverItsType(t *testing.T) {
	for value, want := range map[string]time.Duration{
		`3600`: time.Hour, `"3600"`: time.Hour, `" 3600 "`: time.Hour, `3600.5`: time.Hour + time.Second/2, `"3599.0"`: time.Hour - time.Second,
		`3.6e3`: time.Hour, `0.25`: time.Second / 4, `1`: time.Second,
		`0`: 0, `"0"`: 0, `-1`: 0, `"-3600"`: 0, `null`: 0, `""`: 0, `"soon"`: 0, `"NaN"`: 0, `"-Inf"`: 0, `true`: 0, `{"s":3600}`: 0, `[3600]`: 0,
		`1e14`: absurd, `9223372036854775807`: absurd, `99999999999999999999999`: absurd, `1e300`: absurd, `"Inf"`: absurd, `1e999`: 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, `{"access_token":"at","refresh_token":"rt","expires_in":`+value+`}`)
			if got := life(tok.Expiry, began); got != want {
				t.Errorf("expires_in %s: got %v, want %v", value, got, want)
			}
		})
	}
}

func TestAMissingLifetimeIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tok, _ := obtained(t, `{"access_token":"at","refresh_token":"rt"}`)
		if !tok.Expiry.IsZero() || !tok.RefreshAt.IsZero() {
			t.Errorf("got %v and %v, want neither Expiry nor RefreshAt", tok.Expiry, tok.RefreshAt)
		}
	})
}

func TestRefreshInIsTheMomentOfTheEarlyRefresh(t *testing.T) {
	for fields, want := range map[string]time.Duration{
		`"expires_in":3600,"refresh_in":1800`: 30 * time.Minute, `"expires_in":"3600","refresh_in":"1800"`: 30 * time.Minute, `"refresh_in":1800`: 30 * time.Minute,
		`"expires_in":3600,"refresh_in":3600`: 0, `"expires_in":3600,"refresh_in":7200`: 0, `"expires_in":3600,"refresh_in":-1`: 0, `"expires_in":3600,"refresh_in":[]`: 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, `{"access_token":"at","refresh_token":"rt",`+fields+`}`)
			if got := life(tok.RefreshAt, began); got != want {
				t.Errorf("%s: got %v, want %v", fields, got, want)
			}
		})
	}
}

func TestRefreshInAfterAJWTsEndIsNoMoment(t *testing.T) {
	token := unsignedJWT(`{"alg":"RS256"}`, `{"iat":1000,"exp":4600}`)
	for value, want := range map[string]time.Duration{`1800`: 30 * time.Minute, `3600`: 0, `7200`: 0} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, fmt.Sprintf(`{"access_token":%q,"refresh_token":"rt","refresh_in":%s}`, token, value))
			if got := life(tok.RefreshAt, began); got != want {
				t.Errorf("refresh_in %s: got %v, want %v", value, got, want)
			}
		})
	}
}

func unsignedJWT(header, claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(claims)) + ".c2ln"
}

func TestAJWTWithoutExpiresInLivesFromIatToExp(t *testing.T) {
	for claims, want := range map[string]time.Duration{
		`{"iat":1000,"exp":4600}`:                                  time.Hour,
		`{"iat":1000.5,"exp":4600.5}`:                              time.Hour,
		`{"iat":99999996400,"exp":100000000000}`:                   time.Hour, // a clock that is centuries off
		`{"iat":1000,"exp":4600,"sub":7,"aud":{"x":1},"nbf":"no"}`: time.Hour,
		`{"exp":4600}`:                     0,
		`{"exp":946688400}`:                time.Hour - time.Second, // from the reply on: one in the bubble's 2000
		`{"iat":1000}`:                     0,
		`{"iat":4600,"exp":1000}`:          0,
		`{"iat":1000,"exp":1000}`:          0,
		`{"iat":"1000","exp":"4600"}`:      0,
		`{"iat":1000,"exp":null}`:          0,
		`{"iat":1000,"exp":4000000000}`:    absurd,
		`{"iat":-1e10,"exp":100000000000}`: absurd,
		`[]`:                               0,
		`hush`:                             0,
	} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, `{"access_token":"`+unsignedJWT(`{"alg":"RS256"}`, claims)+`","refresh_token":"rt"}`)
			if got := life(tok.Expiry, began); got != want {
				t.Errorf("%s: got %v, want %v", claims, got, want)
			}
		})
	}
}

func TestAnAbsurdClaimLosesNoToken(t *testing.T) {
	for _, exp := range []string{"1e18", "1e19", "1e300", "-1e300", "9223372036854775807"} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, `{"access_token":"`+unsignedJWT(`{"alg":"RS256"}`, `{"iat":1000,"exp":`+exp+`}`)+`","refresh_token":"rt"}`)
			if got := life(tok.Expiry, began); got < 0 || got > absurd {
				t.Errorf("exp %s: got %v, want none or one that is not absurd", exp, got)
			}
		})
	}
}

func TestAJWTsAlgorithmDoesNotMatter(t *testing.T) {
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"ES256K"}`, `{"alg":7}`, `{"typ":"at+jwt"}`} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, `{"access_token":"`+unsignedJWT(header, `{"iat":1000,"exp":4600}`)+`","refresh_token":"rt"}`)
			if got := life(tok.Expiry, began); got != time.Hour {
				t.Errorf("%s: got %v, want 1h", header, got)
			}
		})
	}
}

func TestExpiresInWinsOverTheJWT(t *testing.T) {
	token := unsignedJWT(`{"alg":"RS256"}`, `{"iat":1000,"exp":4600}`)
	for value, want := range map[string]time.Duration{`60`: time.Minute, `0`: time.Hour, `"soon"`: time.Hour, `-1`: time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			tok, began := obtained(t, fmt.Sprintf(`{"access_token":%q,"refresh_token":"rt","expires_in":%s}`, token, value))
			if got := life(tok.Expiry, began); got != want {
				t.Errorf("expires_in %s: got %v, want %v", value, got, want)
			}
		})
	}
}

func TestAnExpiryThatTheSourceSetsWinsOverTheJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := &Token{AccessToken: unsignedJWT(`{"alg":"RS256"}`, `{"iat":1000,"exp":4600}`), Expiry: time.Now().Add(time.Minute)}
		c := &tokensource.Cache{Source: tokensource.Static(token)}
		got, err := c.Token(t.Context(), nil)
		if err != nil || !got.Expiry.Equal(token.Expiry) {
			t.Errorf("got %v with the Expiry %v, want %v", err, got.Expiry, token.Expiry)
		}
	})
}

func TestAnOpaqueTokenTellsNoLifetime(t *testing.T) {
	for _, token := range []string{"opaque", "a.b", "a.b.c", "..", "a.b.c.d.e", "e30.e30.", "!.e30.c2ln"} {
		synctest.Test(t, func(t *testing.T) {
			tok, _ := obtained(t, `{"access_token":"`+token+`","refresh_token":"rt"}`)
			if tok.AccessToken != token || !tok.Expiry.IsZero() {
				t.Errorf("%s: got %q until %v, want it without an Expiry", token, tok.AccessToken, tok.Expiry)
			}
		})
	}
}

func TestAuthorizationIsTheHeadersValue(t *testing.T) {
	for kind, want := range map[string]string{"": "Bearer at", "bearer": "Bearer at", "BEARER": "Bearer at", "Token": "Token at"} {
		got, err := (&tokensource.Token{AccessToken: "at", TokenType: kind}).Authorization()
		if got != want || err != nil {
			t.Errorf("type %q: got %q, error %v; want %q", kind, got, err, want)
		}
	}
}

func TestATokenThatNoHeaderMayCarryHasNoAuthorization(t *testing.T) {
	for _, tok := range []*tokensource.Token{
		nil, {}, {AccessToken: "\x01a"}, {AccessToken: "a\x7f"}, {AccessToken: "a b"},
		{AccessToken: "a", TokenType: "dPoP"}, {AccessToken: "a", TokenType: "n_a"},
		{AccessToken: "a", TokenType: "a b"}, {AccessToken: "a", TokenType: "a\n"}, {AccessToken: "a", TokenType: "a,b"},
	} {
		if got, err := tok.Authorization(); got != "" || err == nil {
			t.Errorf("%v: got %q, want an error", tok, got)
		}
	}
}

func TestWhatIsNoStoredTokenIsAnError(t *testing.T) {
	for _, data := range []string{"", "hush", `{"access_token":1}`, `{"access_token":"hush","expiry":1}`, `{}`, `{"expiry":"2026-01-02T03:04:05Z"}`} {
		if got, err := tokensource.Unmarshal([]byte(data)); got != nil || err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v and %v, want an error", data, got, err)
		}
	}
	got, err := tokensource.Unmarshal([]byte(`{"refresh_token":"r"}`))
	if err != nil || got.RefreshToken != "r" {
		t.Errorf("got %v and %v, want the refresh token alone", got, err)
	}
}
