package transport_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A nonceServer answers what answer says, with nonce-1, nonce-2 and so on.
type nonceServer struct {
	answer func(n int, req *http.Request, resp *http.Response)
	seen   []string // the nonces of the proofs
}

func (s *nonceServer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	nonce, _ := proofClaims(req)["nonce"].(string)
	s.seen = append(s.seen, nonce)
	resp := bodyAnswer(200, strings.NewReader("ok"))
	resp.Header.Set("DPoP-Nonce", fmt.Sprintf("nonce-%d", len(s.seen)))
	s.answer(len(s.seen), req, resp)
	return resp, nil
}

func (s *nonceServer) wantSeen(t *testing.T, want ...string) {
	t.Helper()
	if fmt.Sprintf("%q", s.seen) != fmt.Sprintf("%q", want) {
		t.Errorf("got the nonces %q, want %q", s.seen, want)
	}
}

// demand makes a response demand its nonce as an authorization server or an API does.
func demand(resp *http.Response, status int) {
	resp.StatusCode = status
	if status == 401 {
		resp.Header.Set("WWW-Authenticate", `Basic realm="x", DPoP error="use_dpop_nonce", algs="ES256"`)
		return
	}
	resp.Header.Set("Content-Type", "application/json;charset=utf-8")
	resp.Body = io.NopCloser(strings.NewReader(`{"error":"use_dpop_nonce"}`))
}

func TestADemandForANonceCostsOneResend(t *testing.T) {
	for _, status := range []int{400, 401} {
		s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
			if n == 1 {
				demand(resp, status)
			}
		}}
		dpop := &transport.DPoP{Key: p256, Base: s}
		for range 2 {
			getsStatus(t, dpop, postBody(t, "https://as.example/token", io.LimitReader(strings.NewReader("body"), 4)), 200)
		}
		s.wantSeen(t, "", "nonce-1", "nonce-2")
	}
}

func TestADemandForANonceCountsBesideARefusalOfTheProof(t *testing.T) {
	for _, challenges := range []string{
		`DPoP error="invalid_dpop_proof", DPoP error="use_dpop_nonce"`,
		`DPoP error="use_dpop_nonce", DPoP error="invalid_dpop_proof"`,
	} {
		s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
			if n == 1 {
				resp.StatusCode = 401
				resp.Header.Set("WWW-Authenticate", challenges)
			}
		}}
		getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example/token", nil), 200)
		s.wantSeen(t, "", "nonce-1")
	}
}

// Sixteen of these have all of DPoP's budget.
func TestTheBudgetOfAResendComesBack(t *testing.T) {
	demanding := &nonceServer{}
	demanding.answer = func(n int, _ *http.Request, resp *http.Response) {
		if n%2 == 1 {
			demand(resp, 400)
		}
	}
	dpop := &transport.DPoP{Key: edKey, Base: demanding}
	for range 20 {
		body := zeros(4 * mib)
		getsStatus(t, dpop, postBody(t, "https://as.example", &body), 200)
	}
}

func TestADemandForANonceComesAsItIsIfTheBodyCannotBeSentAgain(t *testing.T) {
	large := zeros(5 * mib)
	for name, body := range map[string]func(*http.Request){
		"too large": func(req *http.Request) { req.Body = &large },
		"GetBody fails": func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("none") }
		},
	} {
		s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) { demand(resp, 400) }}
		req := postBody(t, "https://as.example", strings.NewReader("body"))
		req.GetBody = nil
		body(req)
		if got := getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, 400); got != `{"error":"use_dpop_nonce"}` || len(s.seen) != 1 {
			t.Errorf("%s: got %q after %d attempts, want the server's answer after one", name, got, len(s.seen))
		}
	}
}

func TestAResponseThatDemandsANonceIsClosedOnce(t *testing.T) {
	refusal := &bodyOf{Reader: strings.NewReader("")}
	closedOnce(t, refusal)
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 1 {
			demand(resp, 401)
			resp.Body = refusal
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
}

// Some servers answer a proof that they do not like with invalid_grant, too.
func TestAnInvalidGrantInAnswerToAProofIsNotFinal(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		resp := bodyAnswer(400, strings.NewReader(`{"error":"invalid_grant"}`))
		resp.Header.Set("Content-Type", "application/json")
		return resp, nil
	})
	for final, rt := range map[bool]http.RoundTripper{true: base, false: &transport.DPoP{Key: p256, Base: base}} {
		grant := &tokensource.RefreshToken{RefreshToken: "r", Endpoint: tokensource.Endpoint{
			URL: "https://as.example", ClientID: "app", Client: &http.Client{Transport: rt}}}
		if _, err := grant.Token(t.Context(), nil); errors.Is(err, tokensource.ErrReauthenticate) != final {
			t.Errorf("over %T: got %v, want ErrReauthenticate: %t", rt, err, final)
		}
	}
}

func TestASecondDemandForANonceIsTheCallersAndTheNextRequestHasIt(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n <= 2 {
			demand(resp, 400)
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	if got := getsStatus(t, dpop, postBody(t, "https://as.example", nil), 400); got != `{"error":"use_dpop_nonce"}` {
		t.Errorf("got %q, want the server's answer", got)
	}
	getsStatus(t, dpop, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", "nonce-1", "nonce-2")
}

func TestAnAnswerThatDemandsNoNonceComesWhole(t *testing.T) {
	const demanded = `{"error":"use_dpop_nonce"}`
	large := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		name, media, nonce, challenge, body string
		status                              int
	}{
		{"another error", "application/json", "n", "", `{"error":"invalid_grant"}`, 400},
		{"no JSON", "application/json", "n", "", "use_dpop_nonce", 400},
		{"no JSON by its type", "text/plain", "n", "", demanded, 400},
		{"more than is read", "application/json", "n", "", `{"error":"use_dpop_nonce","x":"` + large + `"}`, 400},
		{"no nonce", "application/json", "", "", demanded, 400},
		{"a quote in the nonce", "application/json", `a"b`, "", demanded, 400},
		{"a backslash in the nonce", "application/json", `a\b`, "", demanded, 400},
		{"a space in the nonce", "application/json", "a b", "", demanded, 400},
		{"a control in the nonce", "application/json", "a\x7f", "", demanded, 400},
		{"too long a nonce", "application/json", large[:1025], "", demanded, 400},
		{"another status", "application/json", "n", "", demanded, 403},
		{"another challenge", "", "n", `DPoP error="invalid_token"`, "", 401},
		{"another scheme", "", "n", `Bearer error="use_dpop_nonce"`, "", 401},
		{"a challenge with another status", "", "n", `DPoP error="use_dpop_nonce"`, "", 403},
		{"an error that is no string", "application/json", "n", "", `{"error":"use_dpop_nonce","error":1}`, 400},
	} {
		sent := 0
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			sent++
			resp := bodyAnswer(c.status, strings.NewReader(c.body))
			resp.Header = http.Header{"Content-Type": {c.media}, "Dpop-Nonce": {c.nonce}, "Www-Authenticate": {c.challenge}}
			return resp, nil
		})
		got := getsStatus(t, &transport.DPoP{Key: p256, Base: base}, postBody(t, "https://as.example", nil), c.status)
		if got != c.body || sent != 1 {
			t.Errorf("%s: got %.50q after %d attempts, want %.50q after one", c.name, got, sent, c.body)
		}
	}
}

func TestTheLongestNonceIsSentBack(t *testing.T) {
	longest := strings.Repeat("!~", 512)
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		resp.Header.Set("DPoP-Nonce", longest)
		if n == 1 {
			demand(resp, 400)
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", longest)
}

func TestADemandForTheNonceThatWasSentIsNotObeyed(t *testing.T) {
	sent := 0
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		sent++
		resp := bodyAnswer(401, strings.NewReader(""))
		resp.Header.Set("DPoP-Nonce", "always")
		demand(resp, 401)
		return resp, nil
	})
	dpop := &transport.DPoP{Key: p256, Base: base}
	for range 3 {
		getsStatus(t, dpop, postBody(t, "https://api.example", nil), 401)
	}
	if sent != 4 {
		t.Errorf("3 requests were sent %d times, want 4", sent)
	}
}

func TestEachServerHasNoncesOfItsOwnAndSoHasEachRole(t *testing.T) {
	s := &nonceServer{answer: func(int, *http.Request, *http.Response) {}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for _, target := range []string{"https://a.example", "https://b.example", "https://A.example:443/x", "https://b.example"} {
		getsStatus(t, dpop, postBody(t, target, nil), 200)
	}
	api := postBody(t, "https://a.example", nil)
	api.Header.Set("Authorization", "DPoP token")
	getsStatus(t, dpop, api, 200)
	s.wantSeen(t, "", "", "nonce-1", "nonce-2", "")
}

func TestAnAuthorizationServersDemandNeedsNoChallenge(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 1 {
			demand(resp, 400)
			resp.StatusCode = 401
		}
	}}
	getsStatus(t, &transport.DPoP{Key: p256, Base: s}, postBody(t, "https://as.example", nil), 200)
	s.wantSeen(t, "", "nonce-1")
}

func TestADemandWithoutANonceIsNotObeyedAndTheLastOneStays(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 2 {
			demand(resp, 401)
		}
		if n > 1 {
			resp.Header.Del("DPoP-Nonce")
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for _, status := range []int{200, 401, 200} {
		getsStatus(t, dpop, postBody(t, "https://as.example", nil), status)
	}
	s.wantSeen(t, "", "nonce-1", "nonce-1")
}

func TestARefusalWithANilBodyComesAsItIs(t *testing.T) {
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 400, Header: http.Header{"Content-Type": {"application/json"}, "Dpop-Nonce": {"n"}}}, nil
	})
	resp, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(postBody(t, "https://as.example", nil))
	if err != nil || resp.StatusCode != 400 || resp.Body != nil {
		t.Errorf("got %v and %v, want the response", resp, err)
	}
}

func TestTheNoncesOf256ServersAreKept(t *testing.T) {
	silent := false
	s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) {
		if silent {
			resp.Header.Del("DPoP-Nonce")
		}
	}}
	dpop := &transport.DPoP{Key: edKey, Base: s}
	ask := func(servers int) (known int) {
		s.seen = nil
		for i := range servers {
			getsStatus(t, dpop, postBody(t, fmt.Sprintf("https://%d.example", i), nil), 200)
		}
		for _, nonce := range s.seen {
			if nonce != "" {
				known++
			}
		}
		return known
	}
	ask(256)
	if got := ask(256); got != 256 { // each has a new one
		t.Errorf("the nonces of %d servers are known, want 256", got)
	}
	ask(257)
	silent = true
	if got := ask(257); got != 256 {
		t.Errorf("the nonces of %d of 257 servers are known, want 256", got)
	}
}

func TestNoncesOfManyServersAreBounded(t *testing.T) {
	s := &nonceServer{answer: func(int, *http.Request, *http.Response) {}}
	dpop := &transport.DPoP{Key: edKey, Base: s}
	for range 2 {
		for i := range 300 {
			getsStatus(t, dpop, postBody(t, fmt.Sprintf("https://%d.example", i), nil), 200)
		}
	}
	known := 0
	for _, nonce := range s.seen[300:] {
		if nonce != "" {
			known++
		}
	}
	if known == 0 || known > 256 {
		t.Errorf("%d nonces were kept, want some, and at most 256", known)
	}
}

func TestARefusalOfAnAPIOrWithoutANonceIsNotReadForADemand(t *testing.T) {
	for authorization, nonce := range map[string]string{"DPoP token": "n", "": ""} {
		read := false
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			resp := bodyAnswer(400, atEnd(func() { read = true }))
			resp.Header.Set("Content-Type", "application/json")
			resp.Header.Set("DPoP-Nonce", nonce)
			return resp, nil
		})
		req := postBody(t, "https://api.example", nil)
		req.Header.Set("Authorization", authorization)
		if _, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(req); err != nil || read {
			t.Errorf("%q: got %v, the body was read: %t, want the first Read to be the caller's", authorization, err, read)
		}
	}
}

// brokenOff ends with an error, which it tells once.
type brokenOff struct {
	io.Reader
	err error
}

func (b *brokenOff) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err, b.err = b.err, io.EOF
	}
	return n, err
}

func TestAnAnswerThatBreaksOffIsTheCallersWithItsError(t *testing.T) {
	broken := errors.New("broken off")
	base := roundTripper(func(*http.Request) (*http.Response, error) {
		resp := bodyAnswer(400, &brokenOff{Reader: strings.NewReader(`{"error":`), err: broken})
		resp.Header = http.Header{"Content-Type": {"application/json"}, "Dpop-Nonce": {"n"}}
		return resp, nil
	})
	resp, err := (&transport.DPoP{Key: p256, Base: base}).RoundTrip(postBody(t, "https://as.example", nil))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := io.ReadAll(resp.Body)
		if err != broken {
			t.Errorf("got %q and %v, want the error of the body", got, err)
		}
	}
}
