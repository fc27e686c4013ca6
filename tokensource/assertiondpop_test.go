package tokensource_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

func TestARequestThatDPoPSendsAgainHasANewAssertion(t *testing.T) {
	srv := trusting(t)
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	seen := &jtis{base: http.DefaultTransport}
	e := asserted(srv)
	e.Client = &http.Client{Transport: &transport.DPoP{Key: testP256(), Base: seen}}
	source := &tokensource.RefreshToken{Endpoint: e, RefreshToken: srv.RefreshToken()}
	tok, err := source.Token(t.Context(), nil)
	wantSubject(t, srv, tok, err, srv.Username, "")
	if len(seen.seen) != 2 || seen.seen[0] == seen.seen[1] || seen.seen[0] == nil || seen.seen[1] == nil {
		t.Errorf("got the jtis %v, want two, for the request was sent twice", seen.seen)
	}
	if got := srv.Counts(); tok == nil || tok.TokenType != "DPoP" || got.NonceChallenges != 1 || got.ProofReuses != 0 {
		t.Errorf("got %v, counts %+v, want a token of type DPoP after one nonce challenge", tok, got)
	}
}

func TestAGrantThatDPoPSendsAgainHasANewAssertion(t *testing.T) {
	var seen []string
	base := endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		seen = append(seen, req.PostForm.Get("assertion"))
		reply := "HTTP/1.1 200 OK\r\n\r\n" + `{"access_token":"a"}`
		if len(seen) == 1 {
			reply = "HTTP/1.1 400 X\r\nContent-Type: application/json\r\nDPoP-Nonce: n\r\n\r\n" + `{"error":"use_dpop_nonce"}`
		}
		return http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), req)
	})
	e := tokensource.Endpoint{URL: "https://login.example.com", Client: &http.Client{Transport: &transport.DPoP{Key: testP256(), Base: base}}}
	tok, err := (&tokensource.JWTBearer{Endpoint: e, Assertion: &tokensource.SignedJWT{Key: testP256(), Audience: []string{"aud"}}}).Token(t.Context(), nil)
	wantToken(t, tok, err, "a")
	if len(seen) != 2 || seen[0] == seen[1] {
		t.Errorf("got the assertions %q, want two different ones", seen)
	}
}

func TestAProofIsNoticedWhateverSendsIt(t *testing.T) {
	refusing := endpointReply(400, nil, `{"error":"invalid_grant"}`)
	bare := &tokensource.RefreshToken{Endpoint: refusing, RefreshToken: "r"}
	if _, err := bare.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("without a proof: got %v, want ErrReauthenticate", err)
	}
	refusing.Client.Transport = &transport.DPoP{Key: testP256(), Base: refusing.Client.Transport}
	proved := &tokensource.RefreshToken{Endpoint: refusing, RefreshToken: "r"}
	if _, err := proved.Token(t.Context(), nil); err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("with a proof: got %v, want an error that is not ErrReauthenticate", err)
	}
}

// The length of the body is told before its bytes.
func TestARequestIsNotSentAgainIfTheNextAssertionHasAnotherLength(t *testing.T) {
	srv := trusting(t)
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	e, calls := asserted(srv), 0
	e.ClientAssertion = tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
		calls++
		s := assertionFor(srv, srv.ClientID, srv.ClientID)
		s.Claims = map[string]any{"pad": strings.Repeat("x", calls)}
		return s.Token(ctx, nil)
	})
	e.Client = &http.Client{Transport: &transport.DPoP{Key: testP256()}}
	source := &tokensource.ClientCredentials{Endpoint: e}
	tok, err := source.Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 use_dpop_nonce: the proof needs a nonce of this server that is not stale")
	tok, err = source.Token(t.Context(), nil) // with the nonce
	wantSubject(t, srv, tok, err, srv.ClientID, "")
	if calls != 3 || srv.Counts().TokenRequests != 2 {
		t.Errorf("got %d assertions and %d requests, want 3 and 2", calls, srv.Counts().TokenRequests)
	}
}
