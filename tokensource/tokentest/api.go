package tokentest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
)

// APIURL is the URL of an API behind [Server.Protect]. It takes any method and any
// body, and answers with the JSON {"sha256": hex, "length": bytes, "method": name} of
// what arrived.
func (s *Server) APIURL() string { return s.URL + "/api" }

// LegacyURL is the URL of the same API behind [Server.ProtectForbidden].
func (s *Server) LegacyURL() string { return s.URL + "/legacy" }

func digest(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	length, err := io.Copy(hash, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the body broke off because the client is gone
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"sha256": hex.EncodeToString(hash.Sum(nil)), "length": length, "method": r.Method})
}
