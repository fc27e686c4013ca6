package servers_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

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

// ask sends JSON, and returns the answer whatever its status.
func ask(t *testing.T, method, url, text string) *http.Response {
	req, err := http.NewRequest(method, url, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// revokes returns what revokes a token at an endpoint (RFC 7009), as a client.
func revokes(t *testing.T, revocation string, client tokensource.Endpoint) func(token string) {
	return func(token string) {
		request(t, "POST", revocation, url.Values{"token": {token}}, func(req *http.Request) {
			req.SetBasicAuth(url.QueryEscape(client.ClientID), url.QueryEscape(client.ClientSecret))
		}).Body.Close()
	}
}
