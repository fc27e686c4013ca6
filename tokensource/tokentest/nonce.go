package tokentest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// A place is where a proof is used. Each place has its own nonces, as if the
// authorization server and the API were two machines.
type place string

const (
	atTokenURL place = "token"
	atAPI      place = "api"
)

// ExpireNonces makes all nonces stale that were issued so far, those of TokenURL and
// those of the API.
func (s *Server) ExpireNonces() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonceEpoch++
}

// nonce returns a new nonce, or "" if none is demanded. The server recognizes a nonce
// by a code in it, so it need not remember nonces.
func (s *Server) nonce(p place) string {
	demanded, epoch := s.nonceState()
	if !demanded {
		return ""
	}
	random := rand.Text()
	return random + "." + s.nonceCode(p, epoch, random)
}

func (s *Server) nonceState() (demanded bool, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dpop.Nonces, s.nonceEpoch
}

// nonceGood reports whether a nonce is good, and counts one that is not.
func (s *Server) nonceGood(p place, nonce string) bool {
	demanded, epoch := s.nonceState()
	random, code, _ := strings.Cut(nonce, ".")
	if !demanded || hmac.Equal([]byte(code), []byte(s.nonceCode(p, epoch, random))) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.NonceChallenges++
	return false
}

func (s *Server) nonceCode(p place, epoch uint64, random string) string {
	mac := hmac.New(sha256.New, s.key)
	fmt.Fprintf(mac, "nonce %s %d %s", p, epoch, random)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
