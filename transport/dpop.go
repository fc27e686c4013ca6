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

	"github.com/tokentripper/tokentripper/internal/guard"
	"github.com/tokentripper/tokentripper/internal/jws"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/proofsent"
	"github.com/tokentripper/tokentripper/internal/replay"
)

// DPoP is an http.RoundTripper that proves the possession of a key with each request
// (RFC 9449), so that a stolen token is useless without the key. Use the same DPoP, or
// two with the same key, in two places: as the Base of the [Auth] for the API, and in
// the Client of the token endpoint. You must set Key only.
//
// Tokens are bound to the key. If tokens are kept longer than the process runs, keep
// the key as well: see the example.
//
// A server may demand its own nonce in the proofs. DPoP takes the nonce from each
// response, and sends a request that lacked it once more. DPoP also sends a request
// once more if its proof is refused and the request is idempotent (RFC 9110 section
// 9.2.2) or has an Idempotency-Key: when a connection breaks, net/http and proxies may
// send such a request twice with the same proof. For this, a body without GetBody is
// recorded as in Auth, or Auth's recording is used. Such a body is sent once more for
// only one of the two reasons. So DPoP sends a request at most three times, and six
// times below Auth, but nearly always once.
//
// A request that already has a DPoP header, spelled DPoP, Dpop or dpop, passes
// unchanged. DPoP never changes the caller's request, and sets the response's Request
// to the caller's.
//
// DPoP is safe for concurrent use. You must not change its fields once it is in use.
type DPoP struct {
	// Key signs the proofs: ECDSA on P-256, or Ed25519. DPoP calls only Public and
	// Sign, so the key may be in a KMS or an HSM.
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

// RoundTrip sends the request with a proof. It sends the request again with another
// proof if the server demands its nonce or may have seen the first proof before. If the
// key fails, the error is of type [*Error].
func (d *DPoP) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || has(req.Header, "Dpop", "DPoP", "dpop") {
		return answered(d.base(), req, req)
	}
	body := replay.New(req, replay.Limits{Body: defaultMaxBody, Total: defaultMaxMemory}, &d.budget)
	defer body.Done()
	attempt := replay.Next{Body: body.First(req), Trailer: req.Trailer}
	var refused *http.Response // the last refusal, and its reason
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
		nonce = cmp.Or(nonceOf(resp), nonce) // its own nonce, not one that concurrent requests use
	}
}

// send sends a copy of the request with a proof. Refused is the answer to the attempt
// before, or nil.
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
		"htm": cmp.Or(req.Method, http.MethodGet),
		"htu": htu,
		"iat": time.Now().Unix(),
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

// Thumbprint returns the SHA-256 thumbprint of the key (RFC 7638). It is the parameter
// dpop_jkt of an authorization request (section 10), and the claim cnf.jkt of the
// tokens that are bound to the key.
func (d *DPoP) Thumbprint() (string, error) {
	if err := d.init(); err != nil {
		return "", err
	}
	return d.jwk.Thumbprint(), nil
}

// boundToken returns the token that the request carries with a proof (section 7.1), for
// both spellings of the header.
func boundToken(req *http.Request) (string, bool) {
	for _, name := range []string{"Authorization", "authorization"} {
		if values := req.Header[name]; len(values) > 0 {
			scheme, token, _ := strings.Cut(values[0], " ")
			return token, strings.EqualFold(scheme, "DPoP")
		}
	}
	return "", false
}

// target returns htu: the target URI as the server sees it, without query, fragment and
// the zone of an IPv6 address (RFC 6874 section 1), and normalised like an origin.
func target(req *http.Request) (string, error) {
	u := *req.URL
	u.Host = cmp.Or(req.Host, u.Host)
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

// refusal returns why the response refuses the proof, if the server may accept another
// proof: the proof lacks the nonce that comes with the response, or the server may have
// seen it before.
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

// proofError returns the error with which the response refuses the proof, if any. An
// API sends it in a challenge with 401 (section 9) or, for some, with 400; an
// authorization server sends it in the body (section 8), which does not count beside
// such a challenge. Of several challenges, the one that demands a nonce counts: what
// follows it is another proof in any case.
func proofError(req *http.Request, resp *http.Response) (code string) {
	for _, c := range Challenges(resp) {
		if e := c.Params["error"]; strings.EqualFold(c.Scheme, "DPoP") && (e == useNonce || e == invalidProof) && code != useNonce {
			code = e
		}
	}
	if _, api := boundToken(req); code == "" && !api && nonceOf(resp) != "" {
		return errorCode(resp)
	}
	return code
}

// repeatable reports whether net/http and proxies may have sent the request twice, with
// one proof, because a connection broke. They repeat requests that a server may act on
// twice without harm.
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

// nonces holds the newest nonce of each server.
type nonces struct {
	mu sync.Mutex // guards by
	by map[server]string
}

// A server is an origin in one of two roles: the nonces of an authorization server
// differ from those of an API at the same origin (section 8).
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

// of returns the nonce for the server of the request, or "" if none is known.
func (n *nonces) of(req *http.Request) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.by[serverOf(req)]
}

// learn takes the nonce of the last response to a request, for later requests. If the
// response has none, learn takes the nonce of the accepted proof, unless another nonce
// has arrived since the request began with the known one. A nonce from a challenge is
// not shared before that, because it may be valid for that request only.
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
	guard.Put(n.by, maxNonces, s, nonce) // a nonce that Put removes costs a server one challenge
}

// nonceOf returns the nonce of a response if it is well formed (section 8.1), else "".
func nonceOf(resp *http.Response) string {
	nonce := resp.Header.Get("DPoP-Nonce")
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }
	if len(nonce) > maxNonce || strings.ContainsFunc(nonce, odd) {
		return ""
	}
	return nonce
}

// CloseIdleConnections closes the idle connections of Base, if Base can close them.
func (d *DPoP) CloseIdleConnections() { closeIdle(d.base()) }

// WrappedRoundTripper returns Base, as [Auth.WrappedRoundTripper] does.
func (d *DPoP) WrappedRoundTripper() http.RoundTripper { return d.base() }

// Format writes the type of Base for every verb. It shows no secret and reads nothing
// that changes concurrently.
func (d *DPoP) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "DPoP over %T", d.base()) }

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (d *DPoP) MarshalText() ([]byte, error) { return fmt.Append(nil, d), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no key.
func (d *DPoP) MarshalBinary() ([]byte, error) {
	return nil, errors.New("transport: a key is not marshalled in binary form")
}

func (d *DPoP) base() http.RoundTripper { return cmp.Or(d.Base, http.DefaultTransport) }
