package transport_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// once is an API whose nonces are good for one request each.
type once struct {
	mu      sync.Mutex
	issued  int
	good    map[string]bool
	status  int            // of its demand
	waiting sync.WaitGroup // for the first demands, until all have been made
}

func (o *once) RoundTrip(req *http.Request) (*http.Response, error) {
	nonce, _ := proofClaims(req)["nonce"].(string)
	o.mu.Lock()
	o.issued++
	next := fmt.Sprint("nonce-", o.issued)
	accepted := o.good[nonce]
	delete(o.good, nonce)
	o.good[next] = true
	o.mu.Unlock()
	resp := bodyAnswer(200, http.NoBody)
	resp.Header.Set("DPoP-Nonce", next)
	if !accepted {
		resp.StatusCode = o.status
		resp.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		if nonce == "" { // each request that has none is answered when all have come
			o.waiting.Done()
			o.waiting.Wait()
		}
	}
	return resp, nil
}

func TestAChallengedRequestGoesAgainWithTheNonceOfItsOwnChallenge(t *testing.T) {
	for _, status := range []int{400, 401} {
		api := &once{good: map[string]bool{}, status: status}
		auth := &transport.Auth{
			Source: tokensource.Static(&tokensource.Token{AccessToken: "t", TokenType: "DPoP"}),
			Base:   &transport.DPoP{Key: edKey, Base: api},
		}
		const callers = 50
		api.waiting.Add(callers)
		var refused atomic.Int32
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range 40 {
					resp, err := auth.RoundTrip(postBody(t, "https://api.example", nil))
					if err != nil || resp.StatusCode != 200 {
						refused.Add(1)
					}
				}
			})
		}
		all.Wait()
		if n := refused.Load(); n > 0 {
			t.Errorf("%d of 2000 requests were refused with %d", n, status)
		}
	}
}

// The newest nonce that is known to be good, or came with what was not a challenge.
func TestANonceIsSharedWhenItIsGood(t *testing.T) {
	const challenge = `DPoP error="use_dpop_nonce"`
	for name, c := range map[string]struct {
		answers []string // nonce, and "!" where it is demanded
		status  int      // of the last answer
		want    string   // what the next request has
	}{
		"it came with a success":           {[]string{"a"}, 200, "a"},
		"it was demanded and accepted":     {[]string{"!a", ""}, 200, "a"},
		"another came with the acceptance": {[]string{"!a", "b"}, 200, "b"},
		"it was demanded, and then again":  {[]string{"!a", "!b"}, 401, "b"},
		"it came with another refusal":     {[]string{"a"}, 403, "a"},
		"its proof was refused":            {[]string{"!a", ""}, 400, ""},
	} {
		var nonces []any
		dpop := &transport.DPoP{Key: edKey}
		dpop.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
			nonces = append(nonces, proofClaims(req)["nonce"])
			resp := bodyAnswer(200, http.NoBody)
			if n := len(nonces); n <= len(c.answers) {
				nonce, demanded := strings.CutPrefix(c.answers[n-1], "!")
				if nonce != "" {
					resp.Header.Set("DPoP-Nonce", nonce)
				}
				if n == len(c.answers) {
					resp.StatusCode = c.status
				}
				if demanded {
					resp.StatusCode = 401
					resp.Header.Set("WWW-Authenticate", challenge)
				}
			}
			return resp, nil
		})
		for range 2 {
			req := postBody(t, "https://api.example", nil)
			req.Header.Set("Authorization", "DPoP t")
			if _, err := dpop.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
		got, _ := nonces[len(nonces)-1].(string)
		if got != c.want || len(nonces) != len(c.answers)+1 {
			t.Errorf("%s: got the nonces %v, want %q in request %d", name, nonces, c.want, len(c.answers)+1)
		}
	}
}

func TestANonceThatCameMeanwhileStays(t *testing.T) {
	s := &nonceServer{}
	dpop := &transport.DPoP{Key: edKey, Base: s}
	s.answer = func(n int, _ *http.Request, resp *http.Response) {
		switch n {
		case 1:
			demand(resp, 401)
		case 2: // accepted with nonce-1, but after another request was answered
			getsStatus(t, dpop, postBody(t, "https://as.example", nil), 200)
			resp.Header.Del("DPoP-Nonce")
		}
	}
	for range 2 {
		getsStatus(t, dpop, postBody(t, "https://as.example", nil), 200)
	}
	s.wantSeen(t, "", "nonce-1", "", "nonce-3")
}

func TestANonceIsNotEvictedBeforeItsResend(t *testing.T) {
	dpop := &transport.DPoP{Key: edKey}
	others := false
	dpop.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
		resp := bodyAnswer(200, http.NoBody)
		resp.Header.Set("DPoP-Nonce", "n")
		if proofClaims(req)["nonce"] == nil && req.URL.Host == "api.example" {
			resp.StatusCode = 401
			resp.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			for i := range 1000 {
				others = true
				getsStatus(t, dpop, postBody(t, fmt.Sprintf("https://%d.example", i), nil), 200)
			}
		}
		return resp, nil
	})
	req := postBody(t, "https://api.example", nil)
	req.Header.Set("Authorization", "DPoP t")
	getsStatus(t, dpop, req, 200)
	if !others {
		t.Error("no other server was asked in between")
	}
}

func TestTheHashAndTheNonceAreThoseOfTheAuthorizationHoweverItIsSpelled(t *testing.T) {
	for _, spelling := range []string{"Authorization", "authorization"} {
		var proofs []map[string]any
		dpop := &transport.DPoP{Key: edKey, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			proofs = append(proofs, proofClaims(req))
			resp := bodyAnswer(200, http.NoBody)
			resp.Header.Set("DPoP-Nonce", "for-apis")
			return resp, nil
		})}
		req := postBody(t, "https://api.example", nil)
		req.Header[spelling] = []string{"DPoP mine"}
		for range 2 {
			getsStatus(t, dpop, req, 200)
		}
		getsStatus(t, dpop, postBody(t, "https://api.example", nil), 200) // a token request
		if proofs[0]["ath"] == nil || proofs[1]["nonce"] != "for-apis" || proofs[2]["nonce"] != nil {
			t.Errorf("%s: got the proofs %v, want the hash of the token and a nonce for APIs", spelling, proofs)
		}
	}
}

// A stream of JSON is not JSON, and may take as long as it likes.
func TestAStreamOfJSONIsNotReadForANonce(t *testing.T) {
	for _, media := range []string{"application/x-ndjson", "application/jsonl+json2", "text/json-seq"} {
		stream := newUntil() // hangs if it is read
		dpop := &transport.DPoP{Key: edKey, Base: roundTripper(func(*http.Request) (*http.Response, error) {
			resp := bodyAnswer(400, stream)
			resp.Header = http.Header{"Dpop-Nonce": {"n"}, "Content-Type": {media}}
			return resp, nil
		})}
		resp, err := dpop.RoundTrip(postBody(t, "https://as.example", nil))
		if err != nil || resp.StatusCode != 400 {
			t.Errorf("%s: got %v and %v, want the answer", media, resp, err)
		}
		go io.WriteString(stream.w, "x")
		if n, _ := io.ReadFull(resp.Body, make([]byte, 1)); n != 1 {
			t.Errorf("%s: the stream was read", media)
		}
	}
}
