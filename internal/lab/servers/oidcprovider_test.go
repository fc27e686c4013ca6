package servers_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

func startOIDCProvider(t *testing.T) *site {
	node, dir, port := program(t, "node"), install(t, "oidc-provider"), freePort(t)
	cmd := exec.Command(node, "server.js", port)
	cmd.Dir = dir
	run(t, port, cmd)
	base := "http://127.0.0.1:" + port
	post := func(path string, form url.Values) *http.Response {
		return request(t, "POST", base+path, form, func(req *http.Request) {
			req.SetBasicAuth("app", url.QueryEscape("a secret of the suite"))
		})
	}
	return &site{
		version: npmVersion(t, dir, "oidc-provider"),
		source: tokensource.RefreshToken{Endpoint: tokensource.Endpoint{
			Issuer:       &tokensource.Issuer{URL: base},
			ClientID:     "app",
			ClientSecret: "a secret of the suite",
		}},
		login: func(t *testing.T) *tokensource.Token {
			return &tokensource.Token{RefreshToken: member(t, request(t, "POST", base+"/test/login", nil, nil), "refresh_token")}
		},
		api: base + "/me",
		revoke: func(t *testing.T, access string) {
			request(t, "POST", base+"/test/revoke/"+access, nil, nil).Body.Close()
		},
		rfc7009: func(access string) { post("/token/revocation", url.Values{"token": {access}}).Body.Close() },
		end: func(t *testing.T, login *tokensource.Token) {
			post("/token/revocation", url.Values{"token": {login.RefreshToken}}).Body.Close()
		},
	}
}

// request sends a form, if there is one, and returns the answer whatever its status.
func request(t *testing.T, method, url string, form url.Values, with func(*http.Request)) *http.Response {
	req, err := http.NewRequest(method, url, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if with != nil {
		with(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return &http.Response{StatusCode: http.StatusBadGateway, Body: http.NoBody}
	}
	return resp
}

// member returns a string of a JSON object.
func member(t *testing.T, resp *http.Response, name string) string {
	t.Helper()
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	var object map[string]any
	json.Unmarshal(text, &object)
	value, ok := object[name].(string)
	if !ok {
		t.Fatalf("%s: no %s in %s", resp.Status, name, text)
	}
	return value
}
