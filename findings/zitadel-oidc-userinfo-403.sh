#!/usr/bin/env bash
# Software: zitadel/oidc 3.52.0 (Go module), over the storage of its example.
#
# Behaviour: the userinfo endpoint answers a token that has expired or is revoked by
# 403 without a challenge, and one that it cannot read by 401 without a challenge.
# RFC 6750 section 3.1, to which OpenID Connect Core section 5.3.3 refers, wants 401
# with the code invalid_token for both, in a WWW-Authenticate header (section 3).
# pkg/op/userinfo.go writes the 403 for each error of Storage.SetUserinfoFromToken.
# A client that waits for a 401 never refreshes.
#
# Seen:
#   good: 200
#   revoked: 403, WWW-Authenticate ""
#   unreadable: 401, WWW-Authenticate ""
#
# Exits with 1 if that changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

var handler http.Handler
var server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))

// The first redirection is what matters.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func do(method, address string, form url.Values, bearer string) *http.Response {
	request, _ := http.NewRequest(method, address, nil)
	if form != nil {
		request.URL.RawQuery = form.Encode()
	}
	if bearer == "" {
		request.SetBasicAuth("app", "secret")
	} else {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	return response
}

func login() (access string) {
	at, _ := do("GET", server.URL+"/auth", url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://app.example.com/"}, "response_type": {"code"}, "scope": {"openid"},
	}, "").Location()
	at, _ = do("POST", server.URL+"/login/username", url.Values{
		"id": {at.Query().Get("authRequestID")}, "username": {"test-user@localhost"}, "password": {"verysecure"},
	}, "").Location()
	at, _ = do("GET", at.String(), nil, "").Location()
	reply := do("POST", server.URL+"/oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "redirect_uri": {"https://app.example.com/"},
	}, "")
	var token struct {
		Access string `json:"access_token"`
	}
	text, _ := io.ReadAll(reply.Body)
	json.Unmarshal(text, &token)
	return token.Access
}

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	storage.RegisterClients(storage.WebClient("app", "secret", "https://app.example.com/"))
	handler = exampleop.SetupServer(server.URL, storage.NewStorage(storage.NewUserStore("http://localhost")), nil, false)
	access := login()
	fmt.Println("good:", do("GET", server.URL+"/userinfo", nil, access).StatusCode)
	do("POST", server.URL+"/revoke", url.Values{"token": {access}}, "")
	refused := do("GET", server.URL+"/userinfo", nil, access)
	fmt.Printf("revoked: %d, WWW-Authenticate %q\n", refused.StatusCode, refused.Header.Get("WWW-Authenticate"))
	refused = do("GET", server.URL+"/userinfo", nil, "x")
	fmt.Printf("unreadable: %d, WWW-Authenticate %q\n", refused.StatusCode, refused.Header.Get("WWW-Authenticate"))
}
GO
{ go mod init finding && go get github.com/zitadel/oidc/v3@v3.52.0 && go mod tidy && go build -o server; } >log 2>&1 || { cat log; exit 1; }
./server | tee seen
diff seen - <<'SEEN'
good: 200
revoked: 403, WWW-Authenticate ""
unreadable: 401, WWW-Authenticate ""
SEEN
