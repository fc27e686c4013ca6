package contract_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestHTTPTransportKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{New: func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper { return base }})
}

func TestAuthKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{New: auth, Tokens: true, Refuses: firstToken})
}

// What a rule holds up, until it gives up: answers of JSON that have not begun.
var ruleBreaks = map[string]string{
	"an answer need not wait for the body":       "RoundTrip waits for the body",
	"request and response flow at the same time": "RoundTrip waits for the body",
}

func TestAuthWithARuleAboutBodiesKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
			return &transport.Auth{Source: tokens("", token), Base: base, Refused: expired}
		},
		Tokens:  true,
		Refuses: firstToken,
		Breaks:  ruleBreaks,
	})
}

// expired looks into every body, as if it were JSON.
func expired(resp *http.Response) bool {
	was := resp.Header["Content-Type"]
	resp.Header["Content-Type"] = []string{"application/json"}
	told := transport.HasJSON(resp, "error", "token_expired")
	if resp.Header["Content-Type"] = was; was == nil {
		delete(resp.Header, "Content-Type")
	}
	return told || transport.Unauthorized(resp)
}

func auth(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
	return &transport.Auth{Source: tokens("", token), Base: base}
}

// tokens is a Source of tokens of one type.
func tokens(kind string, token contract.TokenFunc) tokensource.Source {
	return &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
		text, err := token(ctx)
		return &tokensource.Token{AccessToken: text, TokenType: kind}, err
	})}
}

func firstToken(r *http.Request) http.Header {
	if _, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); token != "token-1" {
		return nil
	}
	return http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}
}

var _, key, _ = ed25519.GenerateKey(nil)

func TestDPoPKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper {
			return &transport.DPoP{Key: key, Base: base}
		},
		Refuses: proofWithoutNonce,
		Breaks:  opaque,
	})
}

// A proof names the URL.
var opaque = map[string]string{"an opaque URL arrives": "a proof needs a URL that is not opaque"}

func proofWithoutNonce(r *http.Request) http.Header {
	if claims := proofClaims(r); claims == "" || strings.Contains(claims, `"nonce":"n"`) {
		return nil
	}
	return http.Header{"Www-Authenticate": {`DPoP error="use_dpop_nonce"`}, "Dpop-Nonce": {"n"}}
}

func proofClaims(r *http.Request) string {
	parts := strings.Split(r.Header.Get("DPoP"), ".")
	if len(parts) != 3 {
		return ""
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	return string(claims)
}

func TestAuthOverDPoPKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
			return &transport.Auth{Source: tokens("DPoP", token), Base: &transport.DPoP{Key: key, Base: base}}
		},
		Tokens: true,
		Refuses: func(r *http.Request) http.Header {
			if h := proofWithoutNonce(r); h != nil {
				return h
			}
			return firstToken(r)
		},
		Breaks: opaque,
	})
}

// A wireLog is what people put at the bottom to see what goes over the wire.
type wireLog struct {
	base   http.RoundTripper
	bodies bool
}

func (l *wireLog) RoundTrip(req *http.Request) (*http.Response, error) {
	httputil.DumpRequestOut(req, l.bodies)
	resp, err := l.base.RoundTrip(req)
	if err == nil {
		httputil.DumpResponse(resp, false)
	}
	return resp, err
}

func (l *wireLog) CloseIdleConnections() { (&http.Client{Transport: l.base}).CloseIdleConnections() }

// What httputil.DumpRequestOut breaks: it first sends the request to nowhere, with
// the caller's httptrace.
var dumpBreaks = map[string]string{
	"the caller's httptrace sees each attempt once": "GotConn: got",
	"the caller's httptrace sees 100 Continue":      "Wait100Continue: got",
	"a request without URL is an error":             "nil pointer",
}

func TestAWireLogBelowAuthKeepsTheContract(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
			return auth(&wireLog{base: base}, token)
		},
		Tokens:  true,
		Refuses: firstToken,
		Breaks:  dumpBreaks,
	})
}

// With the body, it also reads that into memory first.
func TestAWireLogOfBodiesBelowAuthReadsAhead(t *testing.T) {
	contract.Run(t, contract.Subject{
		New: func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
			return auth(&wireLog{base: base, bodies: true}, token)
		},
		Tokens:  true,
		Refuses: firstToken,
		Breaks:  contract.ReadsAhead(dumpBreaks),
	})
}
