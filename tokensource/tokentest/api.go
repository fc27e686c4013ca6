package tokentest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
)

// APIURL is an API behind [Server.Protect]. It takes any method and any body,
// and answers the JSON {"sha256": hex, "length": bytes, "method": name}
// of what arrived.
func (s *Server) APIURL() string { return s.URL + "/api" }

// LegacyURL is the same API behind [Server.ProtectForbidden].
func (s *Server) LegacyURL() string { return s.URL + "/legacy" }

type digestAnswer struct {
	SHA256 string `json:"sha256"`
	Length int64  `json:"length"`
	Method string `json:"method"`
}

func digest(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	length, err := io.Copy(hash, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the body broke off: the client is gone
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(digestAnswer{hex.EncodeToString(hash.Sum(nil)), length, r.Method})
}
