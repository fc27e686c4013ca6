package tokentest

import (
	"crypto/rand"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are the claims of an access token. The exp claim has whole seconds, as in most
// servers; this server itself uses exp_us.
type claims struct {
	jwt.RegisteredClaims
	ExpiryMicros int64  `json:"exp_us"`
	Family       string `json:"sid,omitempty"`
	Generation   uint64 `json:"gen"`
	Epoch        uint64 `json:"epoch"`

	Actor        actorClaim   `json:"act,omitzero"`
	Confirmation confirmation `json:"cnf,omitzero"`
}

// An actorClaim names the actor that acts for the subject, RFC 8693 section 4.1.
type actorClaim struct {
	Subject string `json:"sub"`
}

// A confirmation names the key that a token is bound to, RFC 9449 section 6.1.
type confirmation struct {
	Key string `json:"jkt"`
}

// sign makes the access token of a grant. Its lifetime begins now.
func (s *Server) sign(g grant) string {
	now := time.Now()
	expiry := now.Add(g.lifetime)
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    s.URL,
			Subject:   g.subject,
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(expiry),
			ID:        rand.Text(),
		},
		ExpiryMicros: expiry.UnixMicro(),
		Family:       g.family,
		Generation:   g.generation,
		Epoch:        g.epoch,
		Actor:        actorClaim{g.actor},
		Confirmation: confirmation{g.key},
	})
	signed, err := token.SignedString(s.key)
	if err != nil {
		panic("tokentest: cannot sign: " + err.Error())
	}
	return signed
}

// Check returns nil if the API would accept the access token now. Otherwise the error
// says why not, without any part of the token. A token that is bound to a key (see
// [DPoP]) also needs a proof.
func (s *Server) Check(accessToken string) error {
	_, err := s.check(accessToken)
	return err
}

// Subject returns the subject of an access token, and the actor of a token exchange
// (RFC 8693), or "" if there is none. The error is that of [Server.Check].
func (s *Server) Subject(accessToken string) (subject, actor string, err error) {
	c, err := s.check(accessToken)
	if err != nil {
		return "", "", err
	}
	return c.Subject, c.Actor.Subject, nil
}

func (s *Server) check(accessToken string) (claims, error) {
	var c claims
	// The library's own check of exp would be too coarse.
	_, err := jwt.ParseWithClaims(accessToken, &c,
		func(*jwt.Token) (any, error) { return s.key, nil },
		jwt.WithValidMethods([]string{"HS256"}),
		jwt.WithoutClaimsValidation())
	switch {
	case err != nil:
		return c, errUnknown
	case time.Now().UnixMicro() >= c.ExpiryMicros:
		return c, errExpired
	case s.revoked(c):
		return c, errRevoked
	}
	return c, nil
}

func (s *Server) revoked(c claims) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.revoked(grant{family: c.Family, generation: c.Generation, epoch: c.Epoch})
}

// seconds is a lifetime as in the JSON of real servers: whole seconds, rounded down.
// Zero is left out of the JSON.
func seconds(d time.Duration) int64 {
	return max(0, int64(d/time.Second))
}
