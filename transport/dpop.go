package transport

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/jws"
	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/proof"
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
// response, and sends a request that lacked it once more. So it does if the proof
// of an idempotent request (RFC 9110 section 9.2.2), or of one with an
// Idempotency-Key, is refused: when a connection breaks, net/http and proxies send
// such requests again with the proof that they have. A body without GetBody is
// recorded for that as Auth does, or goes on with Auth's recording; it is sent
// once more for one of the two reasons. So DPoP sends a request at most three
// times, and six below Auth, but nearly always once.
//
// A request that has a DPoP header already, spelled DPoP, Dpop or dpop, passes
// untouched. The caller's request is never changed, and the response's Request
// is the caller's.
//
// DPoP is safe for concurrent use; its fields must not be changed once it is in use.
type DPoP struct {
	// Key signs the proofs: ECDSA on P-256, or Ed25519. Only Public and Sign are
	// called, so it may live in a KMS or an HSM.
	Key crypto.Signer

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
	var demanded, refused bool // what it was sent again for
	var status int             // of the last refusal
	for {
		nonce := d.nonces.of(req)
		resp, err := d.send(req, attempt, nonce, status)
		switch {
		case err != nil, body != nil && (demanded || refused): // a recording is good for one more
			return resp, err
		case !demanded && wantsNonce(req, resp, nonce):
			demanded = true
		case !refused && provedTwice(req, resp):
			refused = true
		default:
			return resp, nil
		}
		if !body.Hold(req) {
			return resp, nil
		}
		if attempt, err = body.Next(req); err != nil {
			return resp, nil
		}
		discard(resp, attempt)
		status = resp.StatusCode
	}
}

// send sends a copy of the request with a proof. The status is that of the
// refusal, if it was sent before.
func (d *DPoP) send(req *http.Request, a replay.Next, nonce string, status int) (*http.Response, error) {
	text, err := d.proof(req, nonce)
	if err != nil {
		if a.Body != nil {
			a.Body.Close()
		}
		return nil, &Error{status, err}
	}
	proof.Sent(req.Context())
	resp, err := answered(d.base(), req, withHeader(req, a.Body, a.Trailer, "Dpop", text))
	if err == nil {
		d.nonces.learn(req, resp)
	}
	return resp, err
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

// boundToken returns the token that the request carries with a proof (section 7.1).
func boundToken(req *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return token, strings.EqualFold(scheme, "DPoP")
}

// target is htu: the target URI as the server sees it, without query and
// fragment, normalised as origins are.
func target(req *http.Request) (string, error) {
	u := *req.URL
	if req.Host != "" {
		u.Host = req.Host
	}
	if u.Opaque != "" || strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return "", errors.New("a proof needs a URL that is not opaque, and whose host is in ASCII")
	}
	o := origin.Of(&u)
	path, _, _ := strings.Cut(u.RequestURI(), "?")
	return o.Scheme + "://" + o.Host + path, nil
}

// wantsNonce reports whether the response refuses the proof because it lacks the
// nonce that comes with the response: an API says so in a challenge (section 9),
// an authorization server in the body (section 8).
func wantsNonce(req *http.Request, resp *http.Response, sent string) bool {
	if nonce := nonceOf(resp); nonce == "" || nonce == sent {
		return false
	}
	if refusesProof(resp, useNonce) {
		return true
	}
	_, api := boundToken(req)
	return !api && (resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusUnauthorized) && errorCode(resp) == useNonce
}

// Errors of proofs (section 12.2).
const (
	useNonce     = "use_dpop_nonce"
	invalidProof = "invalid_dpop_proof"
)

// provedTwice reports whether the response may refuse a proof because it came
// before: what a broken connection left unanswered, net/http and proxies send
// again by themselves, if it does not matter how often the server acts on it.
func provedTwice(req *http.Request, resp *http.Response) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return refusesProof(resp, invalidProof)
	}
	return has(req.Header, "Idempotency-Key", "X-Idempotency-Key") && refusesProof(resp, invalidProof)
}

// refusesProof reports whether an API refuses a proof with that error (section 7.1).
func refusesProof(resp *http.Response, code string) bool {
	return resp.StatusCode == http.StatusUnauthorized && slices.ContainsFunc(Challenges(resp), func(c Challenge) bool {
		return strings.EqualFold(c.Scheme, "DPoP") && c.Params["error"] == code
	})
}

// errorCode reads the error of a JSON body (RFC 6749 section 5.2) and puts the
// body back.
func errorCode(resp *http.Response) string {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.Body == nil || !strings.HasSuffix(media, "json") {
		return ""
	}
	var refusal struct {
		Error string `json:"error"`
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = failing{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), rest), resp.Body}
	if json.Unmarshal(start, &refusal) != nil {
		return ""
	}
	return refusal.Error
}

// failing is a Reader that has failed.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

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

// learn takes the nonce of a response.
func (n *nonces) learn(req *http.Request, resp *http.Response) {
	nonce := nonceOf(resp)
	if nonce == "" {
		return
	}
	s := serverOf(req)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = make(map[server]string)
	}
	if _, known := n.by[s]; !known && len(n.by) >= maxNonces {
		for victim := range n.by { // costs it one challenge
			delete(n.by, victim)
			break
		}
	}
	n.by[s] = nonce
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

// Format writes the type of Base, whatever the verb: no secret, and nothing that
// changes meanwhile.
func (d *DPoP) Format(s fmt.State, verb rune) { fmt.Fprintf(s, "DPoP over %T", d.base()) }

// MarshalText returns what Format writes, so that JSON, XML and slog show no secret.
func (d *DPoP) MarshalText() ([]byte, error) { return fmt.Append(nil, d), nil }

func (d *DPoP) base() http.RoundTripper {
	if d.Base != nil {
		return d.Base
	}
	return http.DefaultTransport
}
