package tokensource

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// A Token is an access token and what came with it (RFC 6749 section 5.1). Goroutines
// share tokens: you must not change a token that a [Source] has returned.
//
// Printed, logged or marshalled in any way, a Token shows no secret. To store one, call
// [Marshal].
type Token struct {
	// AccessToken is the token that requests carry. It is empty in a Token that only
	// brings a refresh token to [Cache.Set].
	AccessToken string

	// TokenType is the authentication scheme. Empty means Bearer.
	TokenType string

	// RefreshToken obtains the next token. Empty means none.
	RefreshToken string

	// Expiry is when the access token expires. Zero means unknown: the token is used
	// until a server refuses it.
	Expiry time.Time

	// RefreshAt is when to refresh early, while the token is still good. Zero means
	// that the [Cache] draws the moment.
	RefreshAt time.Time

	// Scope is the granted scope, with a space between two values. Empty means that the
	// server did not say: then it is the requested scope.
	Scope string

	// Extra holds the other members of the token endpoint's reply as JSON, such as
	// id_token or instance_url. Nil means none.
	Extra map[string]json.RawMessage
}

// same reports whether two tokens have the same access token. A nil Token is the same
// as no other.
func (t *Token) same(u *Token) bool {
	return t != nil && u != nil && t.AccessToken == u.AccessToken
}

// check returns an error if the token cannot go into a header. RFC 6750 section 2.1
// allows fewer characters than this; real servers use more.
func (t *Token) check() error {
	switch {
	case t == nil:
		return errors.New("tokensource: there is no token")
	case t.AccessToken == "":
		return errors.New("tokensource: access_token is empty")
	}
	if i := strings.IndexFunc(t.AccessToken, invisible); i >= 0 {
		return fmt.Errorf("tokensource: access_token has the byte %#02x, which no header may carry", t.AccessToken[i])
	}
	return nil
}

// checkLogin returns an error if a login cannot have returned the token.
func checkLogin(t *Token) error {
	switch {
	case t == nil || t.AccessToken == "" && t.RefreshToken == "":
		return errors.New("tokensource: a login needs an access token or a refresh token")
	case t.AccessToken != "":
		return t.check()
	}
	return nil
}

// checkText returns an error for text that JSON would change.
func (t *Token) checkText() error {
	if !utf8.ValidString(t.AccessToken) || !utf8.ValidString(t.RefreshToken) || !utf8.ValidString(t.TokenType) {
		return errors.New("tokensource: access_token, refresh_token or token_type is not UTF-8")
	}
	return nil
}

// checkExtra returns an error for text that JSON cannot represent.
func (t *Token) checkExtra() error {
	for name, value := range t.Extra {
		if !utf8.ValidString(name) || !json.Valid(value) {
			return fmt.Errorf("tokensource: Extra[%q] is not JSON", name)
		}
	}
	if !utf8.ValidString(t.Scope) {
		return errors.New("tokensource: scope is not UTF-8")
	}
	return nil
}

// invisible reports whether r is not a visible ASCII character.
func invisible(r rune) bool { return r <= ' ' || r >= 0x7f }

// Authorization returns the value of the Authorization header that carries the token.
// Use it for requests that do not go through transport.Auth, such as a WebSocket's
// handshake. It returns an error for a nil Token, if AccessToken or TokenType cannot be
// sent in a header, for the type DPoP, which needs a proof (RFC 9449), and for the type
// N_A, which is not an access token (RFC 8693).
func (t *Token) Authorization() (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	kind := t.TokenType
	switch {
	case kind == "" || strings.EqualFold(kind, "Bearer"):
		kind = "Bearer" // some servers insist on this spelling
	case strings.EqualFold(kind, "DPoP"):
		return "", errors.New("tokensource: a token of type DPoP must not be sent without a proof")
	case strings.EqualFold(kind, "N_A"):
		return "", errors.New("tokensource: a token of type N_A is not an access token")
	case strings.ContainsFunc(kind, invisible) || strings.ContainsAny(kind, `"(),/:;<=>?@[\]{}`):
		return "", errors.New("tokensource: token_type is not an authentication scheme")
	}
	return kind + " " + t.AccessToken, nil
}

// String returns the token's type and expiry, without a secret.
func (t Token) String() string {
	kind := cmp.Or(printable(t.TokenType, maxWord), "Bearer")
	if t.Expiry.IsZero() {
		return kind + " token [redacted]"
	}
	return kind + " token [redacted], expires " + t.Expiry.Format(time.RFC3339)
}

// Format writes [Token.String] for every verb.
func (t Token) Format(s fmt.State, verb rune) { io.WriteString(s, t.String()) }

// MarshalText returns [Token.String], so that JSON, XML and slog show no secret.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no secret.
func (t Token) MarshalBinary() ([]byte, error) { return nil, errBinary }

// errBinary is the error of MarshalBinary, which has no output because it would be read
// again later.
var errBinary = errors.New("tokensource: secrets are not marshalled in binary form; a token is stored with tokensource.Marshal")

// UnmarshalText returns an error, because the text of MarshalText has no token.
func (t *Token) UnmarshalText([]byte) error {
	return errors.New("tokensource: a token is read with tokensource.Unmarshal")
}

// stored is the JSON that x/oauth2 writes, with further members.
type stored struct {
	AccessToken  string    `json:"access_token"`
	TokenType    string    `json:"token_type,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	Expiry       time.Time `json:"expiry,omitzero"`
	RefreshAt    time.Time `json:"refresh_at,omitzero"`
	Scope        string    `json:"scope,omitempty"`

	Extra map[string]json.RawMessage `json:"extra,omitempty"`
}

// Marshal returns the token with its secrets as JSON, for a place that keeps secrets.
// The names are those of golang.org/x/oauth2; what x/oauth2 does not have is in
// refresh_at, scope and extra. Marshal returns an error for what JSON cannot represent:
// text that is not UTF-8, a year beyond 9999, an Extra that is not JSON.
func Marshal(t *Token) ([]byte, error) {
	if t == nil {
		return nil, errors.New("tokensource: Marshal of a nil token")
	}
	if err := cmp.Or(t.checkText(), t.checkExtra()); err != nil {
		return nil, err
	}
	return json.Marshal(stored(*t))
}

// Unmarshal reads the JSON of [Marshal], or of json.Marshal of an x/oauth2 token. It
// ignores unknown members. It returns an error if the value has neither an access token
// nor a refresh token, or a time that Marshal could not write.
func Unmarshal(data []byte) (*Token, error) {
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("tokensource: stored token: %w", err)
	}
	if s.AccessToken == "" && s.RefreshToken == "" {
		return nil, errors.New("tokensource: stored token: neither access_token nor refresh_token")
	}
	for name, at := range map[string]time.Time{"expiry": s.Expiry, "refresh_at": s.RefreshAt} {
		if _, err := at.MarshalText(); err != nil { // package time reads more times than it writes
			return nil, fmt.Errorf("tokensource: stored token: %s: %w", name, err)
		}
	}
	t := Token(s)
	return &t, nil
}
