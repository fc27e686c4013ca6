package tokentest

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/origin"
)

// maxProofAge is also how far ahead the clock of the proof's maker may be.
const maxProofAge = time.Minute

var errProofReused = errors.New("the jti was used before")

// A proof is a DPoP proof with a valid signature, RFC 9449 section 4.2.
type proof struct {
	jwt.RegisteredClaims
	Method    string `json:"htm"`
	URL       string `json:"htu"`
	TokenHash string `json:"ath"`
	Nonce     string `json:"nonce"`

	key string // thumbprint of the key that signed it
}

// parseProof checks what must be checked before the jti is spent.
func parseProof(r *http.Request) (proof, error) {
	headers := r.Header.Values("DPoP")
	if len(headers) != 1 {
		return proof{}, errors.New("there must be one DPoP header")
	}
	p, err := verifyProof(headers[0])
	switch {
	case err != nil:
		return p, err
	case p.ID == "":
		return p, errors.New("no jti")
	case p.IssuedAt == nil:
		return p, errors.New("no iat")
	case time.Since(p.IssuedAt.Time).Abs() > maxProofAge:
		return p, errors.New("iat is more than a minute from now")
	}
	return p, nil
}

func verifyProof(raw string) (proof, error) {
	var p proof
	var wrong error
	_, err := jwt.ParseWithClaims(raw, &p, func(t *jwt.Token) (any, error) {
		var key publicJWK
		key, wrong = headerKey(t)
		p.key = key.thumbprint
		return key.key, wrong
	}, jwt.WithoutClaimsValidation())
	switch {
	case wrong != nil:
		return p, wrong
	case errors.Is(err, jwt.ErrTokenMalformed):
		return p, errNotJWT
	case err != nil:
		return p, errors.New("the signature is not by the jwk")
	}
	return p, nil
}

func headerKey(t *jwt.Token) (publicJWK, error) {
	if t.Header["typ"] != "dpop+jwt" {
		return publicJWK{}, errors.New("typ is not dpop+jwt")
	}
	key, err := parseJWK(t.Header["jwk"])
	if err == nil && !slices.Contains(algorithms(key.key), t.Method.Alg()) {
		err = errors.New("alg does not fit the jwk")
	}
	return key, err
}

// fits returns an error unless the proof was made for this request and this token.
func (p proof) fits(r *http.Request, token string) error {
	switch {
	case p.Method != r.Method:
		return errors.New("htm is not the method of the request")
	case !sameTarget(p.URL, r):
		return errors.New("htu is not the URL of the request without query and fragment")
	case token != "" && p.TokenHash != hash(token):
		return errors.New("ath is not the hash of the access token")
	}
	return nil
}

// sameTarget does not accept a query in htu, as some servers do: RFC 9449 section 4.2
// leaves it out.
func sameTarget(htu string, r *http.Request) bool {
	claimed, err := url.Parse(htu)
	if err != nil || strings.ContainsAny(htu, "?#") || claimed.User != nil {
		return false
	}
	return normalize(claimed) == normalize(target(r))
}

// target uses the request line, which handlers such as [http.StripPrefix] do not
// change.
func target(r *http.Request) *url.URL {
	u := *r.URL
	if line, err := url.ParseRequestURI(r.RequestURI); err == nil {
		u = *line
	}
	u.Scheme, u.Host = "http", r.Host
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return &u
}

// normalize normalises by RFC 3986 sections 6.2.2 and 6.2.3, except dot segments, which
// stay as they were sent.
func normalize(u *url.URL) string {
	o := origin.Of(u)
	path := normalizeEscapes(u.EscapedPath())
	if path == "" {
		path = "/"
	}
	return o.Scheme + "://" + o.Host + path
}

// normalizeEscapes decodes characters that need no escape. EscapedPath ensures that two
// hexadecimal digits follow each percent sign.
func normalizeEscapes(path string) string {
	const unreserved = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
	parts := strings.Split(path, "%")
	for i, part := range parts[1:] {
		char, _ := url.PathUnescape("%" + part[:2])
		if !strings.Contains(unreserved, char) {
			char = "%" + strings.ToUpper(part[:2])
		}
		parts[i+1] = char + part[2:]
	}
	return strings.Join(parts, "")
}
