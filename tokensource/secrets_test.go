package tokensource_test

import (
	"bufio"
	"context"
	"crypto"
	"encoding"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
)

const hush = secrets.Hush

// forms are v alone and inside of others.
func forms[V any](v V) []any {
	p := &v
	return []any{
		v, p, &p, []V{v}, []*V{p}, [1]V{v}, map[string]V{"k": v}, map[string]*V{"k": p}, []any{v, p}, struct{ V V }{v}, struct{ V *V }{p}, &struct{ V V }{v}, &struct{ V any }{v},
	}
}

var (
	hushToken    = tokensource.Token{AccessToken: hush, TokenType: "Bearer", RefreshToken: hush, Expiry: time.Now(), RefreshAt: time.Now(), Extra: hushExtra}
	hushExtra    = map[string]json.RawMessage{"id_token": json.RawMessage(`"` + hush + `"`)}
	hushEndpoint = tokensource.Endpoint{URL: "https://u:" + hush + "@login.example.com/" + hush + "?k=" + hush, ClientID: "app", ClientSecret: hush, Params: url.Values{"p": {hush}}}
)

// A hushSigner is a key that shows, if anything does.
type hushSigner struct{ Secret string }

func (hushSigner) Public() crypto.PublicKey { return nil }
func (hushSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}

var (
	hushKey    = hushSigner{hush}
	hushSource = tokensource.Static(&hushToken)
)

// echo answers with everything that it was sent.
func echo(status int, field string) tokensource.Endpoint {
	e := hushEndpoint
	e.Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		said := fmt.Sprint(req.URL, req.Header, req.PostForm, req.PostForm.Encode())
		body, _ := json.Marshal(map[string]string{"error": "invalid_grant", field: said})
		r := fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
		return http.ReadResponse(bufio.NewReader(strings.NewReader(r)), req)
	})}
	return e
}

// A hushStore cannot save.
type hushStore struct{}

func (hushStore) Load(context.Context, string) ([]byte, error) { return nil, nil }
func (hushStore) Update(_ context.Context, _ string, fn func([]byte, func([]byte) error) error) error {
	return fn(nil, func([]byte) error { return errors.New("no") })
}

// usedCaches have a token, an early refresh that failed, a final error, a panic.
func usedCaches(t *testing.T) (all []*tokensource.Cache) {
	add := func(src tokensource.Source) *tokensource.Cache {
		c := &tokensource.Cache{Source: src}
		c.Token(t.Context(), nil)
		all = append(all, c)
		return c
	}
	add(tokensource.Static(&hushToken))
	fresh := hushToken
	fresh.Expiry, fresh.RefreshAt = time.Time{}, time.Time{}
	add(&tokensource.RefreshToken{Endpoint: echo(400, "error_description"), RefreshToken: hush})
	add(&tokensource.ClientCredentials{Endpoint: echo(500, "error")}).Set(t.Context(), &fresh)
	c := add(&tokensource.RefreshToken{Endpoint: echo(500, "error_uri"), RefreshToken: hush})
	c.Set(t.Context(), &fresh)
	c.Token(t.Context(), &fresh)
	return all
}

func secretsTable(t *testing.T) map[string][]any {
	failed := func(e tokensource.Endpoint) *tokensource.EndpointError {
		_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: hush + "-longer"}).Token(t.Context(), nil)
		found, ok := errors.AsType[*tokensource.EndpointError](err)
		if !ok {
			t.Fatalf("got %v, want an EndpointError", err)
		}
		return found
	}
	table := map[string][]any{
		"Token":             forms(hushToken),
		"Endpoint":          forms(hushEndpoint),
		"Issuer":            {&tokensource.Issuer{URL: "https://as.example/" + hush[:4]}}, // has no secret
		"RefreshToken":      forms(tokensource.RefreshToken{Endpoint: hushEndpoint, RefreshToken: hush}),
		"ClientCredentials": forms(tokensource.ClientCredentials{Endpoint: hushEndpoint, Scopes: []string{"a"}}),
		"SignedJWT":         forms(tokensource.SignedJWT{Key: hushKey, Claims: map[string]any{"c": hush}, Header: map[string]any{"h": hush}}),
		"JWTBearer":         forms(tokensource.JWTBearer{Endpoint: hushEndpoint, Assertion: hushSource}),
		"TokenExchange":     forms(tokensource.TokenExchange{Endpoint: hushEndpoint, Subject: hushSource, Actor: hushSource}),
		"File":              forms(tokensource.File{Path: "/a/b"}),
		"Encrypted":         forms(tokensource.Encrypted{Keys: [][]byte{[]byte(hush)}}),
		"Store":             forms[tokensource.Store](&tokensource.Encrypted{Keys: [][]byte{[]byte(hush)}}),
		"StoreError":        forms(tokensource.StoreError{Op: "load", Key: "k", Err: errors.New("no")}),
		"Source":            append(forms(tokensource.Static(&hushToken)), forms[tokensource.Source](&tokensource.ClientCredentials{Endpoint: hushEndpoint})...),
		"Func":              forms(tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { return &hushToken, nil })),
		"Refresh":           forms(tokensource.Refresh{Cause: tokensource.Expired, Err: failed(echo(400, "error_description"))}),
		"Cause":             forms(tokensource.Early),
	}
	for _, field := range []string{"error", "error_description", "error_uri"} {
		table["EndpointError"] = append(table["EndpointError"], forms(*failed(echo(400, field)))...)
	}
	stored := &tokensource.Stored{Source: hushSource, Store: hushStore{}, Key: "k"}
	stored.Token(t.Context(), nil)
	table["Stored"] = []any{stored, []any{stored}, map[string]any{"k": stored}, struct{ S *tokensource.Stored }{stored}}
	keyed := &tokensource.Keyed[string]{
		Key: func(context.Context) (string, error) { return hush, nil },
		New: func(string) *tokensource.Cache { return &tokensource.Cache{Source: hushSource} },
	}
	keyed.Token(t.Context(), nil)
	table["Keyed"] = []any{keyed, []any{keyed}, map[string]any{"k": keyed}, struct{ S tokensource.Source }{keyed}}
	for _, c := range usedCaches(t) {
		table["Cache"] = append(table["Cache"], c, []*tokensource.Cache{c}, map[string]*tokensource.Cache{"k": c}, struct{ C *tokensource.Cache }{c}, struct{ S tokensource.Source }{c})
	}
	return table
}

func TestNoExportedTypeShowsASecret(t *testing.T) { secrets.CheckTypes(t, secretsTable) }

func TestAServerThatEchoesSecretsIsNotQuoted(t *testing.T) {
	odd := "hush-hush +&=%/é\"\n" // is written differently in a form
	for _, post := range []bool{false, true} {
		for _, field := range []string{"error", "error_description", "error_uri"} {
			e := echo(400, field)
			e.ClientSecret, e.ClientSecretPost, e.Params = odd, post, url.Values{"assertion": {odd + "2"}, "x": {hush}}
			_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: odd + "longer"}).Token(t.Context(), nil)
			refusal, _ := errors.AsType[*tokensource.EndpointError](err)
			got := fmt.Sprint(refusal.Code, refusal.Description, refusal.URI, err)
			basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape("app") + ":" + url.QueryEscape(odd)))
			for _, secret := range []string{"hush", "longer", basic, strconv.Quote(odd)} {
				if strings.Contains(got, secret) {
					t.Errorf("post %t, %s: got %q, want it without %q", post, field, got, secret)
				}
			}
			if !strings.Contains(got, "[redacted]") {
				t.Errorf("post %t, %s: got %q, want the rest of it", post, field, got)
			}
		}
	}
}

func TestASecretThatAServerEchoesInAnyEscapeIsNotQuoted(t *testing.T) {
	const secret = "hush/with+slash&more"
	for _, echoed := range []string{
		"hush%2fwith%2bslash%26more",                                 // lower case
		"hush%2fwith%2Bslash%26more",                                 // mixed
		"%68us%68/with+slash&more",                                   // needless
		"hush/with+slash&amp;more",                                   // HTML
		"hush&#x2F;with&#43;slash&#38;more",                          // HTML by numbers
		`hush\/with\u002bslash\u0026more`,                            // JSON in JSON
		`hush\x2fwith\x2Bslash\x26more`,                              // JavaScript
		"hush%252Fwith%252Bslash%2526more",                           // twice
		"hush%2fwith%2bslash&amp;more",                               // a mixture
		"hush%2fwith%2bslash%26more 100% &amp; hush/with+slash&more", // beside itself
	} {
		body, _ := json.Marshal(map[string]string{"error": "invalid_request", "error_description": "bad: " + echoed})
		e := endpointReply(400, nil, string(body))
		_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: secret}).Token(t.Context(), nil)
		if s := err.Error(); strings.Contains(s, "us") || strings.Contains(s, "more") || !strings.Contains(s, "bad: [redacted]") {
			t.Errorf("%s: got %v, want it redacted", echoed, err)
		}
	}
	text := "100% & more; see https://as.example/?a=%2f &amp; b"
	body, _ := json.Marshal(map[string]string{"error": "invalid_request", "error_description": text})
	e := endpointReply(400, nil, string(body))
	_, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: secret}).Token(t.Context(), nil)
	if refusal, ok := errors.AsType[*tokensource.EndpointError](err); !ok || refusal.Description != text {
		t.Errorf("without the secret: got %v, want %q as it came", err, text)
	}
}

func TestAReplyMayBeginWithAByteOrderMark(t *testing.T) {
	e := endpointReply(200, nil, "\ufeff"+`{"access_token":"a","refresh_token":"R2"}`)
	got, err := (&tokensource.RefreshToken{Endpoint: e, RefreshToken: "R1"}).Token(t.Context(), nil)
	if wantToken(t, got, err, "a"); got != nil && got.RefreshToken != "R2" {
		t.Errorf("got the refresh token %s, want R2", got.RefreshToken)
	}
}

func TestGobOfASecretIsAnErrorThatNamesMarshal(t *testing.T) {
	for _, v := range []any{
		hushToken, &hushToken, hushEndpoint, tokensource.RefreshToken{RefreshToken: hush}, tokensource.ClientCredentials{Endpoint: hushEndpoint},
		tokensource.Encrypted{Keys: [][]byte{[]byte(hush)}}, tokensource.SignedJWT{Issuer: "a"},
	} {
		if err := gob.NewEncoder(io.Discard).Encode(v); err == nil || !strings.Contains(err.Error(), "tokensource.Marshal") {
			t.Errorf("%T: got %v, want an error that names tokensource.Marshal", v, err)
		}
	}
}

func TestASecretOfTheURLOrOfFourCharactersIsNotQuoted(t *testing.T) {
	e := endpointReply(400, nil, `{"error":"invalid_scope","error_description":"of-the-url, four, and"}`)
	e.URL += "?api_key=of-the-url"
	e.Params = url.Values{"a": {"four"}, "b": {"and"}}
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_scope: [redacted], [redacted], and")
}

func TestAnErrorOfReadingTheReplyIsRedacted(t *testing.T) {
	e := hushEndpoint
	e.Client = &http.Client{Transport: endpointFunc(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(iotest.ErrReader(errors.New("not " + hush)))}, nil
	})}
	tok, err := e.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: not [redacted]")
}

func TestPublicParametersMayBeQuoted(t *testing.T) {
	e := endpointReply(400, nil, `{"error":"unauthorized_client","error_description":"app-1 may not use client_credentials"}`)
	e.ClientID, e.Params = "app-1", url.Values{"hint": {"client"}}
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 unauthorized_client: app-1 may not use [redacted]_credentials")
}

func TestErrorsOfNetHTTPThatQuoteTheServerAreRedacted(t *testing.T) {
	for _, reply := range []string{
		"client_secret=" + hush + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nclient_secret " + hush + "\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://x/%zz?" + hush + "\r\n\r\n",
	} {
		srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.Write([]byte(reply))
			conn.Close()
		})
		e := hushEndpoint
		e.URL = srv.URL
		if _, err := e.Exchange(t.Context(), anyGrant); err == nil || secrets.Shows(err.Error()) || !strings.Contains(err.Error(), "[redacted]") {
			t.Errorf("%q: got %v, want an error without the secret", reply, err)
		}
	}
}

func TestASecretThatAnErrorWouldQuoteIsRedacted(t *testing.T) {
	const odd = `hush"hush\`
	e := endpointReply(302, http.Header{"Location": {"https://x/%zz?" + odd}}, "")
	e.ClientSecret = odd
	if _, err := e.Exchange(t.Context(), anyGrant); err == nil || !strings.Contains(err.Error(), "[redacted]") || strings.Contains(err.Error(), "hush") {
		t.Errorf("got %v, want an error without the secret", err)
	}
}

// A line break is escaped beside the secret, so that both are unescaped.
func TestAnErrorWithoutItsSecretStaysOnOneLine(t *testing.T) {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	for _, quoted := range []string{"%0Ahush%2dhush", "&#10;hush&#45;hush", "\x00hush%2dhush", "&#x2028;hush%2dhush"} {
		e := endpointReply(302, http.Header{"Location": {"%zz" + quoted}}, "")
		e.ClientSecret = "hush-hush"
		_, err := e.Exchange(t.Context(), anyGrant)
		if s := err.Error(); !strings.Contains(s, "[redacted]") || strings.Contains(s, "hush") || strings.ContainsFunc(s, odd) {
			t.Errorf("%q: got %q, want one line without the secret", quoted, s)
		}
	}
}

func TestWhatIsPrintedTellsWhatItIs(t *testing.T) {
	endpoint := tokensource.Endpoint{URL: "https://as.example/token", ClientID: "app"}
	for want, v := range map[string]any{
		"cache of *tokensource.File":                           &tokensource.Cache{Source: new(tokensource.File)},
		"*tokensource.File in *tokensource.Encrypted as \"k\"": &tokensource.Stored{Source: new(tokensource.File), Store: new(tokensource.Encrypted), Key: "k"},
		"caches by int":           new(tokensource.Keyed[int]),
		"Bearer token [redacted]": tokensource.Token{AccessToken: hush},
		"MAC token [redacted], expires 2026-01-02T03:04:05Z":                            &tokensource.Token{TokenType: "MAC", Expiry: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		`token endpoint at "as.example", client "app"`:                                  endpoint,
		`client credentials for the token endpoint at "as.example", client "app"`:       tokensource.ClientCredentials{Endpoint: endpoint},
		`refresh token [redacted] for the token endpoint at "as.example", client "app"`: tokensource.RefreshToken{Endpoint: endpoint},
		`JWT bearer for the token endpoint at "as.example", client "app"`:               tokensource.JWTBearer{Endpoint: endpoint},
		`token exchange at the token endpoint at "as.example", client "app"`:            tokensource.TokenExchange{Endpoint: endpoint},
		`JWT signed by issuer "app", key id ""`:                                         tokensource.SignedJWT{Issuer: "app"},
		`token endpoint at "", client ""`:                                               tokensource.Endpoint{URL: ":" + hush},
		"encrypted <nil> with 1 keys":                                                   tokensource.Encrypted{Keys: [][]byte{[]byte(hush)}},
	} {
		if got := fmt.Sprintf("%v", v); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if m, ok := v.(encoding.TextMarshaler); ok {
			if got, err := m.MarshalText(); string(got) != want || err != nil {
				t.Errorf("as text: got %s and %v, want %s", got, err, want)
			}
		}
	}
}

func TestATokenTypeIsPrintedOnOneLine(t *testing.T) {
	if got := fmt.Sprint(tokensource.Token{TokenType: "a\nb"}); got != `"a\nb" token [redacted]` {
		t.Errorf("got %q", got)
	}
}

func TestATokenIsNotReadFromWhatWasPrinted(t *testing.T) {
	data, err := json.Marshal(hushToken)
	if err != nil {
		t.Fatal(err)
	}
	var tok tokensource.Token
	if err := json.Unmarshal(data, &tok); err == nil {
		t.Errorf("got %#v, want an error", tok)
	}
}

func TestMarshalOfNoTokenIsAnError(t *testing.T) {
	if data, err := tokensource.Marshal(nil); err == nil {
		t.Errorf("got %s, want an error", data)
	}
}

func TestWhatJSONWouldChangeIsNotMarshalled(t *testing.T) {
	for want, bad := range map[string]*Token{
		"access_token, refresh_token or token_type": {AccessToken: "\xff"},
		`Extra["\xff"]`: {Extra: map[string]json.RawMessage{"\xff": json.RawMessage("1")}},
		`Extra["x"]`:    {Extra: map[string]json.RawMessage{"x": json.RawMessage("{")}},
		"scope":         {Scope: "\xff"},
	} {
		bad.RefreshToken = "refresh"
		if data, err := tokensource.Marshal(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %s and %v, want an error that names %s", data, err, want)
		}
	}
}

func TestATokenThatCouldNotBeStoredAgainIsNotRead(t *testing.T) {
	for _, field := range []string{"expiry", "refresh_at"} {
		tok, err := tokensource.Unmarshal([]byte(`{"access_token":"a","` + field + `":"2026-10-01T00:00:00+24:00"}`))
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("got %v, %v, want an error that names %s", tok, err, field)
		}
	}
}

func TestMarshalIsTheWayToStoreAToken(t *testing.T) {
	data, err := tokensource.Marshal(&hushToken)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tokensource.Unmarshal(data)
	if err != nil || got.AccessToken != hush || got.RefreshToken != hush || !got.Expiry.Equal(hushToken.Expiry) {
		t.Errorf("got %v, %v, want the token with its secrets", got, err)
	}
}
