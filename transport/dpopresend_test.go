package transport_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

func TestARequestWhoseProofIsRefusedIsSentAgainIfItIsIdempotent(t *testing.T) {
	for _, c := range []struct {
		method, header, challenge string
		sent                      int
	}{
		{"", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"GET", "", `Bearer, dpop error="invalid_dpop_proof"`, 2},
		{"HEAD", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"OPTIONS", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"TRACE", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "Idempotency-Key", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "X-Idempotency-Key", `DPoP error="invalid_dpop_proof"`, 2},
		{"POST", "", `DPoP error="invalid_dpop_proof"`, 1},
		{"PUT", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"DELETE", "", `DPoP error="invalid_dpop_proof"`, 2},
		{"PATCH", "", `DPoP error="invalid_dpop_proof"`, 1},
		{"GET", "", `DPoP error="invalid_token"`, 1},
		{"POST", "Idempotency-Key", `DPoP error="invalid_token"`, 1},
		{"GET", "", `Bearer error="invalid_dpop_proof"`, 1},
		{"GET", "", `DPoP algs="ES256", DPoP error="invalid_dpop_proof"`, 2},
		{"GET", "", `DPoP error="use_dpop_nonce"`, 1}, // without one
	} {
		ids := make(map[any]string) // and what came with it
		dpop := &transport.DPoP{Key: p256, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(req.Body)
			req.Body.Close()
			ids[proofClaims(req)["jti"]] = string(body)
			resp := httptest.NewRecorder().Result()
			resp.StatusCode = 401
			resp.Header.Set("WWW-Authenticate", c.challenge)
			return resp, err
		})}
		req, _ := http.NewRequest(c.method, "https://api.example", io.LimitReader(strings.NewReader("body"), 4))
		req.Method = c.method
		if c.header != "" {
			req.Header.Set(c.header, "1")
		}
		getsStatus(t, dpop, req, 401)
		if len(ids) != c.sent {
			t.Errorf("%+v: %d proofs were sent, want %d", c, len(ids), c.sent)
		}
		for _, body := range ids {
			if body != "body" {
				t.Errorf("%+v: the body %q was sent", c, body)
			}
		}
	}
}

// A failingKey signs so many times, and then no more.
type failingKey struct {
	crypto.Signer
	left int
}

func (k *failingKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.left--; k.left < 0 {
		return nil, errors.New("the HSM is away")
	}
	return k.Signer.Sign(r, digest, o)
}

// That it was not sent at all may be a reason to send it again.
func TestAKeyThatFailsLaterDoesNotMeanThatNothingWasSent(t *testing.T) {
	bound := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		token, err := oldThenNew(ctx, old)
		token.TokenType = "DPoP"
		return token, err
	})
	for challenge, signs := range map[string]int{"invalid_dpop_proof": 1, "invalid_token": 1, "": 0} {
		for _, below := range []bool{false, true} {
			if !below && challenge == "invalid_token" {
				continue // for Auth
			}
			s := &nonceServer{answer: func(_ int, _ *http.Request, resp *http.Response) {
				resp.StatusCode = 401
				resp.Header.Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", challenge))
			}}
			var rt http.RoundTripper = &transport.DPoP{Key: &failingKey{p256, signs}, Base: s}
			if below {
				rt = &transport.Auth{Source: bound, Base: rt}
			}
			req, _ := http.NewRequest("PUT", "https://api.example", strings.NewReader("body"))
			_, err := rt.RoundTrip(req)
			e, ok := errors.AsType[*transport.Error](err)
			if want := 401 * signs; !ok || e.StatusCode != want || len(s.seen) != signs || !strings.Contains(e.Error(), "HSM") {
				t.Errorf("%q, below Auth: %v: sent %d times, error %v, want one with the status %d", challenge, below, len(s.seen), err, want)
			}
		}
	}
}

func TestTheTrailersGoWithEachProof(t *testing.T) {
	for _, answers := range []string{"", "n"} {
		var came []string
		s := &nonceServer{answer: func(n int, req *http.Request, resp *http.Response) {
			came = append(came, req.Trailer.Get("X-Sum"))
			if n <= len(answers) {
				demand(resp, 401)
			}
		}}
		req, sum := summed(t, "https://api.example", 10_000)
		getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, 200)
		for _, got := range came {
			if got != sum {
				t.Errorf("after %q came the trailer %q, want %q", answers, got, sum)
			}
		}
	}
}

func TestARequestIsSentAgainOnceForItsNonceAndOnceForItsProof(t *testing.T) {
	for _, c := range []struct {
		answers   string // n demands a nonce, p refuses the proof; what follows is accepted
		recorded  bool
		sent      int
		succeeded bool
	}{
		{"np", false, 3, true},
		{"pn", false, 3, true},
		{"nn", false, 2, false},
		{"pp", false, 2, false},
		{"npn", false, 3, false},
		{"pnp", false, 3, false},
		{"n", true, 2, true},
		{"p", true, 2, true},
		{"np", true, 2, false},
		{"pn", true, 2, false},
	} {
		s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
			if n > len(c.answers) {
				return
			}
			if demand(resp, 401); c.answers[n-1] == 'p' {
				resp.Header.Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
			}
		}}
		req, _ := http.NewRequest("PUT", "https://api.example", strings.NewReader("body"))
		if c.recorded {
			req.GetBody = nil
		}
		want := 401
		if c.succeeded {
			want = 200
		}
		getsStatus(t, &transport.DPoP{Key: p256, Base: s}, req, want)
		if len(s.seen) != c.sent {
			t.Errorf("%+v: it was sent %d times", c, len(s.seen))
		}
	}
}

// A server that refuses a body unread leaves nothing of it in the recording.
func TestARecordedBodyThatWasNotReadIsSentTwiceAtMost(t *testing.T) {
	sent, codes := 0, []string{"use_dpop_nonce", "invalid_dpop_proof", ""}
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		resp := bodyAnswer(401, http.NoBody)
		resp.Header.Set("DPoP-Nonce", "n")
		resp.Header.Set("WWW-Authenticate", fmt.Sprintf("DPoP error=%q", codes[sent]))
		if sent++; sent > 1 {
			io.Copy(io.Discard, req.Body)
		}
		return resp, req.Body.Close()
	})
	req, _ := http.NewRequest("PUT", "https://api.example", io.LimitReader(strings.NewReader("body"), 4))
	if getsStatus(t, &transport.DPoP{Key: p256, Base: base}, req, 401); sent != 2 {
		t.Errorf("it was sent %d times, want 2", sent)
	}
}

func TestAProofThatIsRefusedWithoutANonceIsFollowedByOneWithTheSameNonce(t *testing.T) {
	s := &nonceServer{answer: func(n int, _ *http.Request, resp *http.Response) {
		if n == 2 {
			resp.StatusCode = 401
			resp.Header = http.Header{"Www-Authenticate": {`DPoP error="invalid_dpop_proof"`}}
		}
	}}
	dpop := &transport.DPoP{Key: p256, Base: s}
	for range 2 {
		req, _ := http.NewRequest("GET", "https://api.example", nil)
		getsStatus(t, dpop, req, 200)
	}
	s.wantSeen(t, "", "nonce-1", "nonce-1")
}

// net/http sends a GET again by itself, with the proof that it has, when a
// connection ends on which others were answered before. So may a proxy.
func TestAProofThatNetHTTPSentTwiceCostsOneResend(t *testing.T) {
	srv := tokentest.NewServer(t)
	client, _ := dpopClient(t, srv, boundGrants(srv)["client credentials"])
	var answered atomic.Int32
	api := httptest.NewServer(srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if answered.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
	})))
	defer api.Close()
	for range 3 {
		resp, err := client.Get(api.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("got %s, want 200", resp.Status)
		}
	}
	if c := srv.Counts(); c.ProofReuses != 1 || c.Issued != 1 {
		t.Errorf("got %+v, want 1 token, and 1 proof that was used twice", c)
	}
}

func TestABodyOnItsWayIsHeldForTheNonceAndForTheToken(t *testing.T) {
	for _, protocol := range protocols {
		for _, size := range []int64{1, kib, mib} {
			a := &boundAPI{readFirst: size / 2}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			data, sum := noise(size)
			body := &bodyOf{Reader: data}
			closedOnce(t, body)
			bound := tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				token, err := oldThenNew(ctx, old)
				return &tokensource.Token{AccessToken: token.AccessToken, TokenType: "DPoP"}, err
			})
			auth := &transport.Auth{Source: bound, Base: &transport.DPoP{Key: p256, Base: base}}
			getsStatus(t, auth, postBody(t, url, body), 200)
			if got, want := strings.Join(a.came, "\n"), "no nonce\nDPoP old\n"+sum; got != want {
				t.Errorf("%s, %d bytes: the server got\n%s\nwant\n%s", protocol, size, got, want)
			}
		}
	}
}

// A boundAPI demands a nonce, then another token, each when it has read so much.
type boundAPI struct {
	readFirst int64
	came      []string
}

func (a *boundAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if proofClaims(r)["nonce"] == "n" && r.Header.Get("Authorization") == "DPoP new" {
		_, sum := summedBody(r.Body)
		a.came = append(a.came, sum)
		return
	}
	http.NewResponseController(w).EnableFullDuplex()
	io.CopyN(io.Discard, r.Body, a.readFirst)
	challenge, what := `DPoP error="invalid_token"`, r.Header.Get("Authorization")
	if proofClaims(r)["nonce"] == nil {
		challenge, what = `DPoP error="use_dpop_nonce"`, "no nonce"
	}
	a.came = append(a.came, what)
	w.Header().Set("DPoP-Nonce", "n")
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(401)
	http.NewResponseController(w).Flush()
	io.Copy(io.Discard, r.Body) // or net/http may panic: it hits the end only after the handler
}

// early answers attempts in turn: it reads so much of the body, and closes it, if it refuses.
type early struct {
	answers []earlyAnswer
	rest    chan string
}

type earlyAnswer struct {
	reads     int64
	challenge string // none: the rest of the body is read after the answer
}

func (e *early) RoundTrip(req *http.Request) (*http.Response, error) {
	a := e.answers[0]
	e.answers = e.answers[1:]
	io.CopyN(io.Discard, req.Body, a.reads)
	if a.challenge == "" {
		go func() {
			rest, err := io.ReadAll(req.Body)
			req.Body.Close()
			e.rest <- fmt.Sprint(string(rest), err)
		}()
		return bodyAnswer(200, strings.NewReader("")), nil
	}
	req.Body.Close()
	resp := bodyAnswer(401, strings.NewReader(""))
	resp.Header.Set("WWW-Authenticate", a.challenge)
	if a.challenge == needsNonce {
		resp.Header.Set("DPoP-Nonce", fmt.Sprint(len(e.answers)))
	}
	return resp, nil
}

const (
	needsNonce = `DPoP error="use_dpop_nonce"`
	needsToken = `DPoP error="invalid_token"`
)

func TestNoPartOfABodyIsMissingWhateverTheOrderOfRefusals(t *testing.T) {
	for name, answers := range map[string][]earlyAnswer{
		"nonce":               {{8, needsNonce}, {0, ""}},
		"token":               {{8, needsToken}, {0, ""}},
		"nonce, token":        {{4, needsNonce}, {8, needsToken}, {0, ""}},
		"token, nonce":        {{4, needsToken}, {8, needsNonce}, {0, ""}},
		"nonce, token, nonce": {{4, needsNonce}, {6, needsToken}, {10, needsNonce}, {0, ""}},
		"less each time":      {{12, needsNonce}, {8, needsToken}, {4, needsNonce}, {0, ""}},
		"nothing":             {{0, needsToken}, {0, needsNonce}, {0, ""}},
		"to the end":          {{16, needsNonce}, {16, needsToken}, {16, needsNonce}, {0, ""}},
	} {
		tokens := 0
		source := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			tokens++
			return &tokensource.Token{AccessToken: fmt.Sprint("token-", tokens), TokenType: "DPoP"}, nil
		})
		base := &early{answers: answers, rest: make(chan string, 1)}
		auth := &transport.Auth{Source: source, Base: &transport.DPoP{Key: edKey, Base: base}}
		body := &bodyOf{Reader: strings.NewReader("0123456789abcdef")}
		closedOnce(t, body)
		getsStatus(t, auth, postBody(t, "https://api.example", body), 200)
		if got := <-base.rest; got != "0123456789abcdef<nil>" {
			t.Errorf("%s: the server got %q", name, got)
		}
	}
}
