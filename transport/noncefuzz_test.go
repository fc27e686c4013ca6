package transport_test

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/transport"
)

// quickKey signs nothing, but at once.
type quickKey struct{}

func (quickKey) Public() crypto.PublicKey { return make(ed25519.PublicKey, ed25519.PublicKeySize) }

func (quickKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, ed25519.SignatureSize), nil
}

// A demanding server answers every request alike, and remembers the nonces of their
// proofs and their bodies.
type demanding struct {
	status       int
	header       http.Header
	body         string
	nonces, sent []string
	open         int // response bodies
}

func (s *demanding) RoundTrip(req *http.Request) (*http.Response, error) {
	text, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	s.sent, s.nonces = append(s.sent, string(text)), append(s.nonces, nonceIn(req.Header.Get("DPoP")))
	s.open++
	body := struct {
		io.Reader
		io.Closer
	}{strings.NewReader(s.body), closeFunc(func() error { s.open--; return nil })}
	return &http.Response{StatusCode: s.status, Header: s.header.Clone(), Body: body, Request: req}, nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// nonceIn is the nonce of a proof; what says why there is no proof.
func nonceIn(proof string) string {
	parts := strings.Split(proof, ".")
	if len(parts) != 3 {
		return "not a JWT: " + proof
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Nonce string }
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		return err.Error()
	}
	return claims.Nonce
}

// isNonce is the grammar of RFC 9449 section 8.1; we take 1 KiB of it.
var isNonce = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)

// FuzzNonce sends a request through DPoP to a server that may demand a nonce,
// in any way, and then another request. A nonce that is none is never sent; one
// that is goes with the next proof; a challenge for it causes a second attempt,
// with the whole body, and never a third; the response arrives whole.
func FuzzNonce(f *testing.F) {
	const challenge, refusal = `DPoP error="use_dpop_nonce"`, `{"error":"use_dpop_nonce"}`
	f.Add(401, "n-1", challenge, "", "", true)
	f.Add(400, "n-1", "", "application/json", refusal, false)
	f.Add(400, "n 1", "", "application/json", refusal, false)
	f.Add(400, "n-1", challenge, "", "", true)
	f.Add(200, "n\r\n1", challenge, "", "", true)
	f.Fuzz(func(t *testing.T, status int, nonce, challenge, media, body string, api bool) {
		server := &demanding{status: status, body: body, header: http.Header{"Dpop-Nonce": {nonce}, "Www-Authenticate": {challenge}, "Content-Type": {media}}}
		synctest.Test(t, func(t *testing.T) { // a refused response is closed within 50 ms
			server.test(t, nonce, api)
		})
	})
}

// test sends the two requests.
func (s *demanding) test(t *testing.T, nonce string, api bool) {
	d := &transport.DPoP{Key: quickKey{}, Base: s}
	postWhole(t, d, s, api)
	first := len(s.nonces)
	postWhole(t, d, s, api)
	want := nonce
	if !isNonce.MatchString(nonce) || len(nonce) > 1<<10 {
		want = ""
	}
	for i, got := range s.nonces {
		if i > 0 && got != want || i == 0 && got != "" {
			t.Fatalf("nonce %q: got %q, want none and then %q", nonce, s.nonces, want)
		}
	}
	may, must := s.demands(want, api)
	if again := first == 2; first > 2 || again && !may || !again && must || len(s.nonces) != first+1 {
		t.Fatalf("status %d, headers %q, body %q: got %d attempts, then %d", s.status, s.header, s.body, first, len(s.nonces)-first)
	}
}

// postWhole sends a request and checks that it arrives whole each time, and its
// response, too.
func postWhole(t *testing.T, d *transport.DPoP, server *demanding, api bool) {
	t.Helper()
	req := must(http.NewRequest("POST", "https://api.example.com/", io.NopCloser(strings.NewReader("a body"))))
	if api {
		req.Header.Set("Authorization", "DPoP at")
	}
	resp, err := d.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.Body.Close(); err != nil || string(body) != server.body || server.open != 0 {
		t.Fatalf("got the body %q, %v, and %d open, want %q and all closed", body, err, server.open, server.body)
	}
	for _, sent := range server.sent {
		if sent != "a body" {
			t.Fatalf("the server got %q, want the whole body each time", server.sent)
		}
	}
}

// demands reports whether the answers may and must cause a second attempt. Of a
// refusal in a body, that is decided by an error that is there once, in the spelling
// of RFC 6749. It does not count beside a challenge that refuses the proof.
func (s *demanding) demands(nonce string, api bool) (may, must bool) {
	if nonce == "" || s.status != http.StatusBadRequest && s.status != http.StatusUnauthorized {
		return false, false
	}
	for _, c := range challenged(s.header.Get("Www-Authenticate")) {
		if strings.EqualFold(c.Scheme, "DPoP") {
			may, api = may || c.Params["error"] == "use_dpop_nonce", api || c.Params["error"] == "invalid_dpop_proof"
		}
	}
	if may || api {
		return may, may
	}
	names, values := errorsIn(s.body)
	may = slices.Contains(values, any("use_dpop_nonce"))
	return may, may && slices.Equal(names, []string{"error"}) && len(s.body) <= 64*kib && s.header.Get("Content-Type") == "application/json"
}

// errorsIn lists the members of a JSON object that are named error in any case, also
// if there are several.
func errorsIn(body string) (names []string, values []any) {
	d := json.NewDecoder(strings.NewReader(body))
	if begin, _ := d.Token(); begin != json.Delim('{') || !json.Valid([]byte(body)) {
		return nil, nil
	}
	for d.More() {
		name, _ := d.Token()
		var value any
		d.Decode(&value) // the zero value for a number that no float has
		if name := name.(string); strings.EqualFold(name, "error") {
			names, values = append(names, name), append(values, value)
		}
	}
	return names, values
}
