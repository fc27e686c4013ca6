package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// pages are what the web has, by URL. Requests are counted. After a page with a
// negative status the connection breaks.
type pages struct {
	mu   sync.Mutex
	all  map[string]func(*http.Request) (int, string)
	asks map[string]int
	open int // bodies that nobody has closed
}

func newPages() *pages {
	return &pages{all: map[string]func(*http.Request) (int, string){}, asks: map[string]int{}}
}

func (p *pages) set(url string, status int, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[url] = func(*http.Request) (int, string) { return status, body }
}

func (p *pages) asked(url string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asks[url]
}

func (p *pages) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close()
	}
	p.mu.Lock()
	at := req.URL.String()
	page := p.all[at]
	p.asks[at]++
	p.mu.Unlock()
	if page == nil || req.Method == "GET" && req.Header.Get("Accept") != "application/json" {
		return &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody}, nil
	}
	status, text := page(req)
	body := &pageBody{strings.NewReader(text), p}
	switch {
	case status == 0:
		return nil, errors.New("no route")
	case status < 0:
		status, body.Reader = -status, io.MultiReader(body.Reader, iotest.ErrReader(errors.New("cut off")))
	}
	p.add(1)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: body}, nil
}

type pageBody struct {
	io.Reader
	of *pages
}

func (b *pageBody) Close() error { b.of.add(-1); return nil }

func (p *pages) add(open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open += open
}

// client is a Source whose Endpoint is found by an Issuer.
func (p *pages) client(issuer *tokensource.Issuer) *tokensource.ClientCredentials {
	return &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		Issuer: issuer, ClientID: "app", ClientSecret: "secret", Client: &http.Client{Transport: p},
	}}
}

func metadataOf(issuer, endpoint string, methods ...string) string {
	m := map[string]any{"issuer": issuer, "token_endpoint": endpoint}
	if methods != nil {
		m["token_endpoint_auth_methods_supported"] = methods
	}
	data, _ := json.Marshal(m)
	return string(data)
}

const granted = `{"access_token":"a"}`

func TestAnIssuersMetadataAreFoundWhereverTheStandardsHaveThem(t *testing.T) {
	for at, issuer := range map[string]string{
		"https://as.example/.well-known/oauth-authorization-server":     "https://as.example",
		"https://as.example/.well-known/openid-configuration":           "https://as.example",
		"https://as.example/.well-known/oauth-authorization-server/t/1": "https://as.example/t/1",
		"https://as.example/.well-known/openid-configuration/t/1":       "https://as.example/t/1",
		"https://as.example/t/1/.well-known/openid-configuration":       "https://as.example/t/1",
		"https://as.example/t%2F1/.well-known/openid-configuration":     "https://as.example/t%2F1",
		"https://as.example/x/.well-known/openid-configuration":         "https://as.example/x/",
	} {
		p := newPages()
		p.set(at, 200, metadataOf(issuer, "https://token.example/token"))
		p.set("https://token.example/token", 200, granted)
		if got, err := p.client(&tokensource.Issuer{URL: issuer}).Token(t.Context(), nil); err != nil || got.AccessToken != "a" {
			t.Errorf("%s: got %v and %v, want a token", at, got, err)
		}
	}
}

func TestTheIssuerOfAnAPIIsFoundByItsResourceMetadata(t *testing.T) {
	const at = "https://api.example/.well-known/oauth-protected-resource/mcp"
	for _, c := range []struct{ body, wrong string }{
		{`{"resource":"https://api.example/mcp","authorization_servers":["https://as.example"]}`, ""},
		{`{"resource":"https://API.example:443/mcp","authorization_servers":["https://as.example","https://other.example"]}`, ""},
		{`{"resource":"https://api.example.evil/mcp","authorization_servers":["https://as.example"]}`, "are those of the resource"},
		{`{"authorization_servers":["https://as.example"]}`, "are those of the resource"},
		{`{"resource":"https://api.example/mcp"}`, "no authorization_servers"},
		{`{"resource":"https://api.example/mcp","authorization_servers":["http://as.example"]}`, "AllowHTTP"},
		{`{"resource":"https://api.example/mcp","authorization_servers":["as.example"]}`, "not an absolute URL"},
		{`{"resource":7}`, "not a JSON object"},
		{`{"resource":"https://api.example:x/mcp","authorization_servers":["https://as.example"]}`, "are those of the resource"},
		{"", "the resource has no metadata"},
	} {
		p := newPages()
		if c.body != "" {
			p.set(at, 200, c.body)
		}
		p.set("https://as.example/.well-known/oauth-authorization-server", 200, metadataOf("https://as.example", "https://as.example/token"))
		p.set("https://as.example/token", 200, granted)
		_, err := p.client(&tokensource.Issuer{Resource: at}).Token(t.Context(), nil)
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: got %v, want %q", c.body, err, c.wrong)
		}
	}
}

func TestAResourceThatIsNoAbsoluteURLWithoutUserIsAnError(t *testing.T) {
	for _, resource := range []string{"", "https://api.example:x/", "api.example", "https://user:hush@api.example/"} {
		_, err := newPages().client(&tokensource.Issuer{Resource: resource}).Token(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "neither Issuer.URL nor Issuer.Resource") {
			t.Errorf("%s: got %v, want an error that names the fields", resource, err)
		}
	}
}

func TestAnIssuerThatCannotBeTrustedGetsNoSecret(t *testing.T) {
	const issuer, at = "https://as.example", "https://as.example/.well-known/oauth-authorization-server"
	for _, c := range []struct {
		issuer string
		status int
		body   string
		want   string
	}{
		{issuer, 200, metadataOf("https://other.example", "https://as.example/token"), "are of the issuer https://other.example"},
		{issuer, 200, metadataOf(issuer+"/", "https://as.example/token"), "are of the issuer https://as.example/, not"},
		{issuer, 200, metadataOf(issuer, "http://as.example/token"), "AllowHTTP"},
		{issuer, 200, metadataOf(issuer, ""), "no token_endpoint"},
		{issuer, 200, metadataOf(issuer, "/token"), "not an absolute URL"},
		{issuer, 200, `{"issuer":7}`, "not a JSON object"},
		{issuer, 200, `<html>`, "not a JSON object"},
		{issuer, 200, strings.Repeat(" ", 1<<20) + "{}", "more than 1048576 bytes"},
		{issuer, 302, ``, "answered 302"},
		{issuer, 503, ``, "answered 503"},
		{issuer, 429, ``, "answered 429"},
		{issuer, 0, ``, "no route"},
		{issuer, 400, ``, "has no metadata"},
		{issuer, 404, ``, "has no metadata"},
		{issuer, 500, ``, "answered 500"},
		{issuer, -200, metadataOf(issuer, issuer+"/token"), "metadata: cut off"},
		{"http://as.example", 200, ``, "AllowHTTP"},
		{"https://user:hush@as.example", 200, ``, "without user"},
		{"https://as.example?x=1", 200, ``, "without user, query"},
		{"https://as.example#x", 200, ``, "without user, query and fragment"},
		{"as.example", 200, ``, "not an absolute URL"},
		{"https://as.example:x", 200, ``, "not an absolute URL"},
		{"//as.example", 200, ``, "is not a URL"},
	} {
		p := newPages()
		p.set(at, c.status, c.body)
		source := p.client(&tokensource.Issuer{URL: c.issuer})
		_, err := source.Token(t.Context(), nil)
		if err == nil || !strings.HasPrefix(err.Error(), "tokensource: ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s, %d %.80s: got %v, want an error with %q", c.issuer, c.status, c.body, err, c.want)
		}
		if p.asked("https://as.example/token")+p.asked("http://as.example/token") > 0 {
			t.Errorf("%s, %.80s: the secret was sent", c.issuer, c.body)
		}
		if p.open != 0 {
			t.Errorf("%s, %d %.80s: a body was not closed", c.issuer, c.status, c.body)
		}
	}
}

func TestAnIssuerMayUseHTTPIfItIsAllowed(t *testing.T) {
	p := newPages()
	p.set("http://as.example/.well-known/oauth-authorization-server", 200, metadataOf("http://as.example", "http://as.example/token"))
	p.set("http://as.example/token", 200, granted)
	source := p.client(&tokensource.Issuer{URL: "http://as.example"})
	source.Endpoint.AllowHTTP = true
	got, err := source.Token(t.Context(), nil)
	wantToken(t, got, err, "a")
}

func TestMetadataMayHaveAMebibyte(t *testing.T) {
	const issuer = "https://as.example"
	p, text := newPages(), metadataOf(issuer, issuer+"/token")
	p.set(issuer+"/.well-known/oauth-authorization-server", 200, text+strings.Repeat(" ", 1<<20-len(text)))
	p.set(issuer+"/token", 200, granted)
	got, err := p.client(&tokensource.Issuer{URL: issuer}).Token(t.Context(), nil)
	wantToken(t, got, err, "a")
}

func TestAnIssuerShowsItsHost(t *testing.T) {
	for want, i := range map[string]*tokensource.Issuer{
		`issuer at "as.example"`:  {URL: "https://as.example/hush", Resource: "https://api.example"},
		`issuer at "api.example"`: {Resource: "https://api.example/hush"},
		`issuer at ""`:            {URL: "https://as.example:x"},
	} {
		if got := fmt.Sprint(i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestURLAndIssuerExcludeEachOther(t *testing.T) {
	e := tokensource.Endpoint{URL: "https://a.example/token", Issuer: &tokensource.Issuer{URL: "https://a.example"}}
	if _, err := e.Exchange(t.Context(), anyGrant); err == nil || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("got %v, want an error", err)
	}
}

func TestTheSecretGoesAsTheMetadataSay(t *testing.T) {
	const issuer = "https://as.example"
	for _, c := range []struct {
		methods []string
		post    bool
		want    string
	}{
		{nil, false, "basic"},
		{[]string{"client_secret_basic", "client_secret_post"}, false, "basic"},
		{[]string{"client_secret_basic", "client_secret_post"}, true, "post"},
		{[]string{"client_secret_post"}, false, "post"},
		{[]string{"none", "client_secret_post"}, false, "post"},
		{[]string{"private_key_jwt"}, false, "basic"},
		{[]string{"client_secret_basic"}, true, "post"}, // the user says so
	} {
		p, got := newPages(), ""
		p.set(issuer+"/.well-known/oauth-authorization-server", 200, metadataOf(issuer, issuer+"/token", c.methods...))
		p.all[issuer+"/token"] = func(req *http.Request) (int, string) {
			form, _ := io.ReadAll(req.Body)
			values, _ := url.ParseQuery(string(form))
			_, _, basic := req.BasicAuth()
			got = map[bool]string{true: "basic"}[basic] + map[bool]string{true: "post"}[values.Has("client_secret")]
			return 200, granted
		}
		source := p.client(&tokensource.Issuer{URL: issuer})
		source.Endpoint.ClientSecretPost = c.post
		if _, err := source.Token(t.Context(), nil); err != nil || got != c.want {
			t.Errorf("%v: got %s and %v, want %s", c.methods, got, err, c.want)
		}
	}
}

func TestTokensOfDifferentIssuersAreStoredApart(t *testing.T) {
	keys := map[string]bool{}
	store := keeping(func(key string) { keys[key] = true })
	for _, issuer := range []*tokensource.Issuer{{URL: "https://a.example"}, {URL: "https://b.example"}, {Resource: "https://c.example/.well-known/oauth-protected-resource"}} {
		(&tokensource.Stored{Source: newPages().client(issuer), Store: store, Key: "k"}).Token(t.Context(), nil)
	}
	if len(keys) != 3 {
		t.Errorf("got keys %v, want 3", slices.Collect(maps.Keys(keys)))
	}
}

// keeping is a store that only tells which keys it is asked for.
type keeping func(key string)

func (k keeping) Load(_ context.Context, key string) ([]byte, error) {
	k(key)
	return nil, errors.New("away")
}
func (k keeping) Update(context.Context, string, func([]byte, func([]byte) error) error) error {
	return errors.New("away")
}

func ExampleIssuer() {
	server := tokentest.Start() // stands for an authorization server and an API
	defer server.Close()

	client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{
		Source: &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
			Issuer:       &tokensource.Issuer{URL: server.URL},
			ClientID:     server.ClientID,
			ClientSecret: server.ClientSecret,
		}},
	}}}
	resp, err := client.Get(server.APIURL())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}
