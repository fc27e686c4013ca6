#!/usr/bin/env bash
# Software: github.com/modelcontextprotocol/go-sdk 1.8.0, the client of Streamable HTTP.
#
# Behaviour: the client answers a 401 of a POST by its OAuthHandler's Authorize, and
# sends the request again. It does neither for a 401 of the GET that opens the standing
# stream, as when the access token expires or is revoked between the two. Connect and
# all calls succeed, and no notification ever arrives. MCP's authorization (revision
# 2025-11-25) wants a token in every request, and a 401 for one that is not valid.
# mcp/streamable.go treats each 4xx of the GET as a server without such a stream.
#
# Seen:
#   Connect: <nil>, Ping: <nil>
#   POST 401, Authorize calls: 1
#   GET 401, Authorize calls: 1, GET requests: 1
#
# Exits with 1 if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"
)

// A handler gets another token with each Authorize.
type handler struct{ calls atomic.Int32 }

func (h *handler) TokenSource(context.Context) (oauth2.TokenSource, error) {
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: fmt.Sprint("token-", h.calls.Load())}), nil
}

func (h *handler) Authorize(_ context.Context, _ *http.Request, resp *http.Response) error {
	resp.Body.Close()
	h.calls.Add(1)
	return nil
}

func main() {
	ctx := context.Background()
	server := mcp.NewServer(&mcp.Implementation{Name: "server", Version: "1"}, nil)
	serve := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)
	var gets atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := "Bearer token-1"
		if r.Method == http.MethodGet { // token-1 was revoked before it came
			want = "Bearer token-2"
			gets.Add(1)
		}
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		serve.ServeHTTP(w, r)
	}))
	h := new(handler)
	client := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: srv.URL, OAuthHandler: h}, nil)
	if err != nil {
		panic(err)
	}
	posted := h.calls.Load()
	time.Sleep(3 * time.Second) // a reconnection would come after 1 to 2 s
	fmt.Printf("Connect: %v, Ping: %v\n", err, session.Ping(ctx, nil))
	fmt.Printf("POST 401, Authorize calls: %d\n", posted)
	fmt.Printf("GET 401, Authorize calls: %d, GET requests: %d\n", h.calls.Load(), gets.Load())
}
GO
{ go mod init finding && go get github.com/modelcontextprotocol/go-sdk@v1.8.0 && go mod tidy && go build -o client; } >log 2>&1 || { cat log; exit 1; }
./client | tee seen
diff seen - <<'SEEN'
Connect: <nil>, Ping: <nil>
POST 401, Authorize calls: 1
GET 401, Authorize calls: 1, GET requests: 1
SEEN
