package sim_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const issuerName = "issuer.test"

// proof checks that a request has a proof of its own, and returns its nonce: the
// one that the last answer demands, or one that is no older than what the process
// knows to be good; w.mu is held.
func (w *world) proof(req *http.Request, server string, p *process, demanded int) int {
	if !w.dpop {
		return 0
	}
	var claims struct{ Jti, Nonce string }
	parts := strings.Split(req.Header.Get("DPoP"), ".")
	data, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if err != nil || json.Unmarshal(data, &claims) != nil || w.proofs[claims.Jti] {
		w.broken("%s: a proof is missing, or was used before", server)
		return 0
	}
	w.proofs[claims.Jti] = true
	nonce := nonceOf(claims.Nonce, server)
	known := knownBefore(p.nonces[server], time.Now())
	switch {
	case demanded != 0 && nonce != demanded:
		w.broken("%s: a proof has nonce %d, though %d was demanded", server, nonce, demanded)
	case demanded == 0 && nonce < known-1 && !w.onceOnly: // a late answer may bring back the one before
		w.broken("%s: a proof has nonce %d, though %d was known", server, nonce, known)
	}
	return nonce
}

// demand returns the response that demands another nonce, or nil.
func (w *world) demand(req *http.Request, server string, nonce int) *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dpop || w.accepts(server, nonce) {
		return nil
	}
	body, status := "", 401
	switch {
	case server == issuerName:
		body, status = `{"error":"use_dpop_nonce"}`, 400
	case w.demand400:
		status = 400
	}
	resp := answer(req, status, body)
	resp.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
	if !w.onceOnly {
		resp.Header.Set("DPoP-Nonce", fmt.Sprint(server, "-", w.nonces))
	}
	w.brings(resp, server)
	w.note("%s wants nonce %d, not %d", server, w.nonces, nonce)
	return resp
}

// accepts reports whether a server accepts the nonce: the newest, or each of its
// own once.
func (w *world) accepts(server string, nonce int) bool {
	if !w.onceOnly {
		return nonce == w.nonces
	}
	own := w.issued[nonce] == server
	delete(w.issued, nonce)
	return own
}

// brings adds a nonce to a response if each is good once; w.mu is held.
func (w *world) brings(resp *http.Response, server string) {
	if !w.onceOnly {
		return
	}
	w.nonces++
	w.issued[w.nonces] = server
	resp.Header.Set("DPoP-Nonce", fmt.Sprint(server, "-", w.nonces))
}

// nonceOf returns the number of a nonce; zero if it is none of the server's.
func nonceOf(text, server string) int {
	number, _ := strings.CutPrefix(text, server+"-")
	n, _ := strconv.Atoi(number)
	return n
}

// challenged returns the nonce that a response demands, which the next attempt
// must have.
func challenged(demanded bool, server string, resp *http.Response) int {
	if !demanded {
		return 0
	}
	return nonceOf(resp.Header.Get("DPoP-Nonce"), server)
}

// hears notes the nonce of a demand that was handed to the client, for the library
// takes it, too; w.mu is held.
func (p *process) hears(c *call) {
	if c.challenge > 0 {
		host := fmt.Sprintf("api%d.test", c.api)
		p.nonces[host] = append(p.nonces[host], sighting{time.Now(), c.challenge})
	}
}

// learns notes that a server has accepted a nonce, once its answer has arrived,
// unless another has become known since the one that the request began with;
// w.mu is held.
func (p *process) learns(server string, nonce, offered int) {
	if nonce > 0 && offered == knownBefore(p.nonces[server], time.Now()) {
		p.nonces[server] = append(p.nonces[server], sighting{time.Now(), nonce})
	}
}
