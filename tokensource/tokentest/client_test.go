package tokentest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// An answer is what any endpoint may answer, under the names of both interfaces.
type answer struct {
	Status int
	Header http.Header

	Access, Refresh string
	Lifetime        int
	Error           string
	Description     string
	Type, Issued    string // token_type, issued_token_type
}

// send sends a request and decodes the answer; a broken connection gives status 0.
func send(t *testing.T, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return decode(resp, body)
}

func decode(resp *http.Response, body []byte) answer {
	var m map[string]any
	json.Unmarshal(body, &m)
	text := func(names ...string) (s string) {
		for _, name := range names {
			if v, ok := m[name].(string); ok {
				s = v
			}
		}
		return s
	}
	lifetime, _ := m["expires_in"].(float64)
	return answer{
		Status:   resp.StatusCode,
		Header:   resp.Header,
		Access:   text("access_token", "accessToken"),
		Refresh:  text("refresh_token", "refreshToken"),
		Lifetime: int(lifetime),
		Error:    text("error", "message"),

		Description: text("error_description"),
		Type:        text("token_type"),
		Issued:      text("issued_token_type"),
	}
}

// post posts a form of names and values to the token endpoint.
func post(t *testing.T, srv *tokentest.Server, pairs ...string) answer {
	t.Helper()
	return send(t, formRequest(t, srv, pairs...))
}

func formRequest(t *testing.T, srv *tokentest.Server, pairs ...string) *http.Request {
	t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", srv.TokenURL(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

// refresh does the refresh_token grant as a public client.
func refresh(t *testing.T, srv *tokentest.Server, token string) answer {
	t.Helper()
	return post(t, srv, "grant_type", "refresh_token", "refresh_token", token, "client_id", srv.ClientID)
}

func postJSON(t *testing.T, to string, v any) answer {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", to, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	return send(t, req)
}

// get calls an API with an access token; the empty token sends none.
func get(t *testing.T, url, access string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if access != "" {
		req.Header.Set("Authorization", "Bearer "+access)
	}
	return send(t, req)
}

// wantStatus fails the test unless an answer has the status and the error code.
func wantStatus(t *testing.T, what string, got answer, status int, code string) {
	t.Helper()
	if got.Status != status || got.Error != code {
		t.Errorf("%s: got status %d, error %q; want %d, %q", what, got.Status, got.Error, status, code)
	}
}

// wantGood fails the test unless Check finds an access token good, or not.
func wantGood(t *testing.T, srv *tokentest.Server, what, access string, want bool) {
	t.Helper()
	if err := srv.Check(access); (err == nil) != want {
		t.Errorf("%s: got Check error %v; want good: %t", what, err, want)
	}
}
