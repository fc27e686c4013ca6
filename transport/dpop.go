package transport

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/jws"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/proofsent"
	"github.com/tokentripper/tokentripper/internal/replay"
)

// DPoP is an http.RoundTripper that proves the possession of a key with each
// request (RFC 9449), so that a stolen token is of no use without the key. The
// same DPoP, or one with the same key, goes below [Auth] for the API, as its
// Base, and below the Client of the token endpoint. Only Key must be set.
//
// Tokens are bound to the key. Where they outlive the process, so must the key:
// see the example.
//
// A server may demand a nonce of its own in the proofs. DPoP takes it from each
// response, and sends a request that lacked it once more. It also sends an idempotent
// request (RFC 9110 section 9.2.2), or one with an Idempotency-Key, once more if its
// proof is refused: when a connection breaks, net/http and proxies send such requests
// again with the same proof. A body without GetBody is recorded for that as in Auth,
// or Auth's recording is used. Such a body is sent once more for one of the two
// reasons only. So DPoP sends a request at most three times, and six times below
// Auth, but nearly always once.
//
// A request that has a DPoP header already, spelled DPoP, Dpop or dpop, passes
// untouched. The caller's request is never changed, and the response's Request
// is the caller's.
//
// DPoP is safe for concurrent use; its fields must not be changed once it is in use.
type DPoP struct {
	// Key signs the proofs: ECDSA on P-256, or Ed25519. Only Public and Sign are
	// called, so it may live in a KMS or an HSM.
	Key crypto.Signer `json:"-" xml:"-"`

	// Base sends the requests. Nil means http.DefaultTransport.
	Base http.RoundTripper

	once   sync.Once // guards the next three
	signer *jws.Signer
	jwk    jws.JWK
	err    error

	nonces nonces
	budget replay.Budget
}

// RoundTrip sends the request with a proof, and again with another if the server
// wants its nonce in there, or may have seen the proof before. An error of the key
// is of type [*Error].
func (d *DPoP) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || has(req.Header, "Dpop", "DPoP", "dpop") {
		return answered(d.base(), req, req)
	}
	body := replay.New(req, replay.Limits{Body: defaultMaxBody, Total: defaultMaxMemory}, &d.budget)
	defer body.Done()
	attempt := replay.Next{Body: body.First(req), Trailer: req.Trailer}
	var refused *http.Response // and why, the last time
	var last string
	known := d.nonces.of(req)
	nonce := known
	for sent := 1; ; sent++ {
		resp, err := d.send(req, attempt, nonce, refused)
		if err != nil {
			return nil, err
		}
		why := refusal(req, resp, nonce)
		resp = settled(resp)
		again := why != "" && why != last && sent < 3 && body.Hold(req)
		if again {
			attempt, err = body.Next(req)
		}
		if !again || err != nil {
			d.nonces.learn(req, resp, known, nonce)
			return resp, nil
		}
		discard(d.base(), resp, attempt)
		refused, last = resp, why
		nonce = cmp.Or(nonceOf(resp), nonce) // its own, not one that others use at the same time
	}
}

// send sends a copy of the request with a proof. Refused is the answer that it got
// before, if any.
func (d *DPoP) send(req *http.Request, a replay.Next, nonce string, refused *http.Response) (*http.Response, error) {
	text, err := d.proof(req, nonce)
	if err != nil {
		if a.Body != nil {
			a.Body.Close()
		}
		token, _ := boundToken(req)
		return nil, refusedError(refused, token, err)
	}
	proofsent.Mark(req.Context())
	return answered(d.base(), req, withHeader(req, a.Body, a.Trailer, "Dpop", text))
}

// proof makes the proof of a request (section 4.2).
func (d *DPoP) proof(req *http.Request, nonce string) (string, error) {
	if err := d.init(); err != nil {
		return "", err
	}
	htu, err := target(req)
	if err != nil {
		return "", err
	}
	claims := jwt.MapClaims{
		"jti": rand.Text(),
		"htm": req.Method,
		"htu": htu,
		"iat": time.Now().Unix(),
	}
	if req.Method == "" {
		claims["htm"] = http.MethodGet
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if token, ok := boundToken(req); ok {
		claims["ath"] = jws.Hash(token)
	}
	text, err := d.signer.Sign(map[string]any{"typ": "dpop+jwt", "jwk": d.jwk}, claims)
	if err != nil {
		return "", fmt.Errorf("DPoP.Key: %w", err)
	}
	return text, nil
}

func (d *DPoP) init() error {
	d.once.Do(func() {
		d.signer, d.err = jws.New(d.Key, "")
		if d.err == nil && d.signer.Alg() != "ES256" && d.signer.Alg() != "EdDSA" {
			d.err = fmt.Errorf("%s is not supported, only ES256 and EdDSA", d.signer.Alg())
		}
		if d.err == nil {
			d.jwk, d.err = d.signer.JWK()
		}
		if d.err != nil {
			d.err = fmt.Errorf("DPoP.Key: %w", d.err)
		}
	})
	return d.err
}

// Thumbprint returns the SHA-256 thumbprint of the key (RFC 7638): the parameter
// dpop_jkt of an authorization request (section 10), and the claim cnf.jkt of
// the tokens that are bound to it.
func (d *DPoP) Thumbprint() (string, error) {
	if err := d.init(); err != nil {
		return "", err
	}
	return d.jwk.Thumbprint(), nil
}

// boundToken returns the token that the request carries with a proof (section
// 7.1), whichever way the caller spelled the header.
func boundToken(req *http.Request) (string, bool) {
	for _, name := range []string{"Authorization", "authorization"} {
		if values := req.Header[name]; len(values) > 0 {
			scheme, token, _ := strings.Cut(values[0], " ")
			return token, strings.EqualFold(scheme, "DPoP")
		}
	}
	return "", false
}

// target is htu: the target URI as the server sees it, without query, fragment
// and the zone of an IPv6 address (RFC 6874 section 1), normalised as origins are.
func target(req *http.Request) (string, error) {
	u := *req.URL
	if req.Host != "" {
		u.Host = req.Host
	}
	if u.Opaque != "" || strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", errors.New("a proof needs a URL that is not opaque, and whose host is in ASCII")
	}
	if address, port, ok := strings.Cut(u.Host, "]"); ok {
		address, _, _ = strings.Cut(address, "%")
		u.Host = address + "]" + port
	}
	o := origin.Of(&u)
	path, _, _ := strings.Cut(u.RequestURI(), "?")
	return o.Scheme + "://" + o.Host + path, nil
}

// Errors of proofs (section 12.2).
const (
	useNonce     = "use_dpop_nonce"
	invalidProof = "invalid_dpop_proof"
)

// refusal returns why the response refuses the proof, if another proof may be
// accepted: because it lacks the nonce that comes with the response, or because
// it may have come before.
func refusal(req *http.Request, resp *http.Response, sent string) string {
	if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusBadRequest {
		return ""
	}
	nonce := nonceOf(resp)
	switch code := proofError(req, resp); {
	case code == useNonce && nonce != "" && nonce != sent:
		return code
	case code == invalidProof && repeatable(req):
		return code
	}
	return ""
}

// proofError returns the error with which the response refuses the proof, if any:
// an API says so in a challenge, with 401 (section 9) or, as some do, with 400; an
// authorization server in the body (section 8).
func proofError(req *http.Request, resp *http.Response) string {
	for _, c := range Challenges(resp) {
		if code := c.Params["error"]; strings.EqualFold(c.Scheme, "DPoP") && (code == useNonce || code == invalidProof) {
			return code
		}
	}
	if _, api := boundToken(req); !api && nonceOf(resp) != "" {
		return errorCode(resp)
	}
	return ""
}

// repeatable reports whether net/http and proxies may have sent the request twice
// by themselves, with one proof, because a connection broke: they do if it does
// not matter how often the server acts on it.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return has(req.Header, "Idempotency-Key", "X-Idempotency-Key")
}

// errorCode returns the error of a JSON body (RFC 6749 section 5.2).
func errorCode(resp *http.Response) string {
	var refusal struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(PeekJSON(resp), &refusal) != nil {
		return ""
	}
	return refusal.Error
}

// nonces are the newest nonce of each server.
type nonces struct {
	mu sync.Mutex // guards by
	by map[server]string
}

// A server is an origin in one of its roles: the nonces of an authorization
// server are not those of an API at the same origin (section 8).
type server struct {
	origin origin.Origin
	api    bool
}

func serverOf(req *http.Request) server {
	_, bound := boundToken(req)
	return server{origin.Of(req.URL), bound}
}

// Bounds of nonces.
const (
	maxNonces = 256
	maxNonce  = 1 << 10
)

// of returns the nonce for the server that the request goes to; empty if none
// is known.
func (n *nonces) of(req *http.Request) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[serverOf(req)]
}

// learn takes the nonce of the last response to a request, for the requests to
// come. If there is none, it takes that of the proof that was accepted, unless
// another nonce has come since the request began with the known one. A nonce that
// a request is challenged with is not shared before: it may be good for that
// request only.
func (n *nonces) learn(req *http.Request, resp *http.Response, known, sent string) {
	nonce := nonceOf(resp)
	s := serverOf(req)
	n.mu.Lock()
	defer n.mu.Unlock()
	if nonce == "" && resp.StatusCode < 400 && n.by[s] == known {
		nonce = sent
	}
	if nonce == "" {
		return
	}
	if n.by == nil {
		n.by = make(map[server]string)
	}
	put(n.by, maxNonces, s, nonce) // to be dropped costs a server one challenge
}

// nonceOf returns the nonce that a response brings, if it may be one (section 8.1).
func nonceOf(resp *http.Response) string {
	nonce := resp.Header.Get("DPoP-Nonce")
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }
	if len(nonce) > maxNonce || strings.ContainsFunc(nonce, odd) {
		return ""
	}
	return nonce
}

// CloseIdleConnections closes the idle connections of Base, if it can.
func (d *DPoP) CloseIdleConnections() { closeIdle(d.base()) }

// WrappedRoundTripper returns Base, or what is used where it is nil, for code
// that looks for the [http.Transport] below its layers.
func (d *DPoP) WrappedRoundTripper() http.RoundTripper { return d.base() }

// Format writes the type of Base, whatever the verb: no secret, and nothing that
// changes meanwhile.
func (d *DPoP) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "DPoP over %T", d.base()) }

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (d *DPoP) MarshalText() ([]byte, error) { return fmt.Append(nil, d), nil }

// MarshalBinary returns an error, so that gob and its like write no key.
func (d *DPoP) MarshalBinary() ([]byte, error) {
	return nil, errors.New("transport: a key is not marshalled in binary form")
}

func (d *DPoP) base() http.RoundTripper {
	if d.Base != nil {
		return d.Base
	}
	return http.DefaultTransport
}
