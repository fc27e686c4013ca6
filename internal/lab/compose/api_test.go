package compose

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func auth(base http.RoundTripper, token contract.TokenFunc) *transport.Auth {
	return &transport.Auth{
		Source: &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			text, err := token(ctx)
			return &tokensource.Token{AccessToken: text}, err
		})},
		Base: base,
	}
}

// keepsTheContract tests layers with Auth among them, which break some cases.
func keepsTheContract(t *testing.T, layers func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper, breaks map[string]string) {
	contract.Run(t, contract.Subject{New: layers, Tokens: true, Refuses: firstToken, Breaks: breaks})
}

func firstToken(r *http.Request) http.Header {
	if _, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); token != "token-1" {
		return nil
	}
	return http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}
}

var _, key, _ = ed25519.GenerateKey(nil)

// An api is a base that answers each attempt in turn, with 200 at last, and
// notes the attempts: status, host, token.
type api struct {
	answers []answer

	mu   sync.Mutex // guards seen
	seen []string
}

// An answer has the status, and a Location if it is a redirect. It refuses the
// token that it names, whatever the status.
type answer struct {
	status   int
	location string
	refuses  string
}

func (a *api) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := answer{status: http.StatusOK}
	if n := len(a.seen); n < len(a.answers) {
		now = a.answers[n]
	}
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if now.refuses != "" && now.refuses == token {
		now = answer{status: http.StatusUnauthorized}
	}
	a.seen = append(a.seen, strings.TrimSpace(fmt.Sprint(now.status, " ", req.URL.Host, " ", token)))
	resp := &http.Response{
		Status: fmt.Sprint(now.status, " ", http.StatusText(now.status)), StatusCode: now.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: req,
	}
	if now.location != "" {
		resp.Header.Set("Location", now.location)
	}
	return resp, nil
}

// numbered is a Cache over token-1, token-2 and so on, each good for so long.
func numbered(lifetime time.Duration) *tokensource.Cache {
	n := 0
	return &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		n++
		now := time.Now()
		return &tokensource.Token{
			AccessToken: fmt.Sprint("token-", n),
			Expiry:      now.Add(lifetime),
			RefreshAt:   now.Add(lifetime), // never early: the tests count
		}, nil
	})}
}
