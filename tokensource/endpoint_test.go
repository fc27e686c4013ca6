package tokensource_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/tokentripper/tokentripper/tokensource"
)

// endpointFunc is a token endpoint without a network, as the Transport of a client.
type endpointFunc func(*http.Request) (*http.Response, error)

func (f endpointFunc) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	return f(req)
}

// endpointReply is an Endpoint that always answers this.
func endpointReply(status int, header http.Header, body string) tokensource.Endpoint {
	return tokensource.Endpoint{URL: "https://login.example.com/token", ClientID: "app", Client: &http.Client{
		Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
		}),
	}}
}

func contentType(s string) http.Header { return http.Header{"Content-Type": {s}} }

var anyGrant = url.Values{"grant_type": {"client_credentials"}}

// wantEndpointError checks the text, and that it shows nothing of the reply's body.
func wantEndpointError(t *testing.T, tok *tokensource.Token, err error, want string) *tokensource.EndpointError {
	t.Helper()
	e, ok := errors.AsType[*tokensource.EndpointError](err)
	if !ok || tok != nil || err.Error() != want {
		t.Fatalf("got token %v, error %v\nwant an EndpointError: %s", tok, err, want)
	}
	return e
}

func TestRepliesAreJSONOrAForm(t *testing.T) {
	want := &tokensource.Token{
		AccessToken: "at", TokenType: "bearer", RefreshToken: "rt", Scope: "a b", Extra: map[string]json.RawMessage{"x": json.RawMessage(`"y"`)},
	}
	const form = "access_token=at&token_type=bearer&refresh_token=rt&scope=a+b&x=y"
	const object = ` {"access_token":"at","token_type":"bearer","refresh_token":"rt","scope":"a b","x":"y"} `
	for _, c := range [][2]string{
		{"application/json", object},
		{"application/json; charset=utf-8", object},
		{"application/json", "\ufeff" + object},
		{"application/json", "\n\ufeff\n" + object},
		{"text/html", object},
		{"", object},
		{"a/b; =", object},
		{"application/x-www-form-urlencoded", object},
		{"application/x-www-form-urlencoded; charset=utf-8", form},
		{"text/plain", form},
	} {
		got, err := endpointReply(200, contentType(c[0]), c[1]).Exchange(t.Context(), anyGrant)
		if err != nil || !reflect.DeepEqual(*got, *want) {
			t.Errorf("%s %s: got %#v, %v, want %#v", c[0], c[1], got, err, want)
		}
	}
}

func TestUnusableRepliesTellWhatIsWrong(t *testing.T) {
	const answered = "tokensource: the token endpoint answered 200: "
	for body, want := range map[string]string{
		"":                                "reply: empty",
		" \n":                             "reply: empty",
		"<html>hush</html>":               "reply: markup, neither JSON nor a form",
		`{"access_token":"hus`:            "reply: not valid JSON",
		`{"access_token":"hush"} hush`:    "reply: not valid JSON",
		`["hush"]`:                        "reply: not a JSON object",
		`"hush"`:                          "reply: not a JSON object",
		`null`:                            "reply: not a JSON object",
		`hush`:                            "reply: not a JSON object",
		`{}`:                              "tokensource: access_token is empty",
		`{"access_token":""}`:             "tokensource: access_token is empty",
		`{"access_token":null}`:           "tokensource: access_token is empty",
		`{"access_token":5}`:              "reply: access_token is of the wrong type",
		`{"access_token":{"hush":1}}`:     "reply: access_token is of the wrong type",
		`{"access_token":"hush hush"}`:    "tokensource: access_token has the byte 0x20, which no header may carry",
		`{"access_token":"hush\r\nX: y"}`: "tokensource: access_token has the byte 0x0d, which no header may carry",
		`{"access_token":"hush\u0000"}`:   "tokensource: access_token has the byte 0x00, which no header may carry",
		`{"access_token":"hüsh"}`:         "tokensource: access_token has the byte 0xc3, which no header may carry",
		`{"access_token":"hush\u007f"}`:   "tokensource: access_token has the byte 0x7f, which no header may carry",
	} {
		tok, err := endpointReply(200, contentType("application/json"), body).Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, answered+want)
	}
}

func TestAnUnusableFormTellsWhatIsWrong(t *testing.T) {
	for body, want := range map[string]string{
		"access_token=hush%zz":     "reply: not a valid form",
		"hush":                     "tokensource: access_token is empty",
		"access_token=hush%0d%0aX": "tokensource: access_token has the byte 0x0d, which no header may carry",
		"<p>access_token=hush</p>": "reply: markup, neither JSON nor a form",
		"token=hush&access_token=": "tokensource: access_token is empty",
		"access_token=hush+hush":   "tokensource: access_token has the byte 0x20, which no header may carry",
	} {
		tok, err := endpointReply(200, contentType("application/x-www-form-urlencoded"), body).Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: "+want)
	}
}

func TestRefusalsTellStatusCodeAndDescription(t *testing.T) {
	for _, c := range []struct {
		status            int
		media, body, want string
	}{
		{400, "application/json", `{"error":"invalid_scope"}`, "400 invalid_scope"},
		{400, "application/json", `{"error":"invalid_scope","error_description":"no such"}`, "400 invalid_scope: no such"},
		{200, "application/json", `{"error":"invalid_scope","access_token":"hush"}`, "200 invalid_scope"},
		{200, "application/x-www-form-urlencoded", `error=bad_verification_code&error_description=It+is+old`, "200 bad_verification_code: It is old"},
		{500, "application/json", `{"error":"server_error","error_description":"down"}`, "500 server_error: down"},
		{502, "text/html", `<html>Bad Gateway: hush</html>`, "502: reply: markup, neither JSON nor a form"},
		{503, "", ``, "503"},
		{404, "application/json", `{"message":"hush"}`, "404: reply: no error code"},
		{400, "application/json", `["hush"]`, "400: reply: not a JSON object"},
		{400, "application/json", `{"error":{"hush":1},"error_description":"why"}`, "400: why: reply: no error code"},
		{400, "application/json", `{"error":"invalid_scope","error_description":["hush"]}`, "400 invalid_scope"},
		{200, "application/json", `{"error":"invalid_scope","error_description":["hush"]}`, "200 invalid_scope"},
		{201, "application/json", `{}`, "201: tokensource: access_token is empty"},
		{199, "application/json", `{"access_token":"hush"}`, "199: reply: no error code"},
		{299, "application/json", `{}`, "299: tokensource: access_token is empty"},
		{399, "application/json", `{"access_token":"hush"}`, "399: a redirect, which is not followed"},
	} {
		tok, err := endpointReply(c.status, contentType(c.media), c.body).Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, "tokensource: the token endpoint answered "+c.want)
	}
}

// once gives one assertion, then fails.
func once() tokensource.Source {
	given := false
	return tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		if given {
			return nil, errors.New("no other")
		}
		given = true
		return &tokensource.Token{AccessToken: "hush-1"}, nil
	})
}

func TestWhatIsWrongWithAReplyIsToldThoughTheRequestCarriedAnAssertion(t *testing.T) {
	e := endpointReply(200, nil, "<html>")
	e.ClientAssertion = once()
	tok, err := e.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: markup, neither JSON nor a form")
}

func TestASecondBodyFailsIfNoOtherAssertionComes(t *testing.T) {
	e := tokensource.Endpoint{URL: "https://login.example.com", ClientID: "app", ClientAssertion: once()}
	e.Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		if body, err := req.GetBody(); body != nil || err == nil || !strings.Contains(err.Error(), "no other") {
			t.Errorf("got %v and %v, want the assertion's error", body, err)
		}
		return nil, errors.New("enough")
	})}
	e.Exchange(t.Context(), anyGrant)
}

func TestTheAssertionOfASecondBodyIsNotQuoted(t *testing.T) {
	n := 0
	e := tokensource.Endpoint{URL: "https://login.example.com", ClientID: "app"}
	e.ClientAssertion = tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		n++
		return &tokensource.Token{AccessToken: fmt.Sprint("hush-", n)}, nil
	})
	e.Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		data, _ := io.ReadAll(body)
		form, _ := url.ParseQuery(string(data))
		reply := fmt.Sprintf(`{"error":"invalid_client","error_description":"not %s"}`, form.Get("client_assertion"))
		return &http.Response{StatusCode: 400, Body: io.NopCloser(strings.NewReader(reply))}, nil
	})}
	tok, err := e.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_client: not [redacted]")
}

func TestALifetimeOfLessThanNothingIsOneThatNobodyKnows(t *testing.T) {
	got, err := endpointReply(200, nil, `{"access_token":"a","expires_in":-5,"refresh_in":60}`).Exchange(t.Context(), anyGrant)
	if err != nil || !got.Expiry.IsZero() || got.RefreshAt.IsZero() {
		t.Errorf("got %#v and %v, want no Expiry, and the RefreshAt of refresh_in", got, err)
	}
}

func TestInvalidGrantNeedsALoginEvenIfTheRestOfTheReplyIsWrong(t *testing.T) {
	for _, body := range []string{
		`{"error":"invalid_grant"}`, `{"error":"invalid_grant","error_description":{}}`, `{"error":"invalid_grant","error_uri":1}`,
	} {
		for status, final := range map[int]bool{200: true, 400: true, 401: true, 403: true, 429: false, 500: false, 503: false} {
			src := &tokensource.RefreshToken{
				Endpoint: endpointReply(status, contentType("application/json"), body), RefreshToken: "grant",
				Final: map[bool]func(*tokensource.EndpointError) bool{false: func(*tokensource.EndpointError) bool { return true }}[final],
			}
			if _, err := src.Token(t.Context(), nil); err == nil || errors.Is(err, tokensource.ErrReauthenticate) != final {
				t.Errorf("%d %s: got %v, want ErrReauthenticate: %t", status, body, err, final)
			}
		}
	}
}

func TestARefreshTokenIsDeadOnlyOfInvalidGrant(t *testing.T) {
	for _, code := range []string{"invalid_request", "invalid_client", "server_error", ""} {
		src := &tokensource.RefreshToken{Endpoint: endpointReply(400, nil, `{"error":"`+code+`"}`), RefreshToken: "grant"}
		if _, err := src.Token(t.Context(), nil); err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("%q: got %v, want an error that is not ErrReauthenticate", code, err)
		}
	}
}

func TestARefreshTokenStaysIfTheServerSendsNoOther(t *testing.T) {
	for sends, want := range map[string]string{`{"access_token":"a"}`: "r", `{"access_token":"a","refresh_token":"next"}`: "next"} {
		got, err := (&tokensource.RefreshToken{Endpoint: endpointReply(200, nil, sends), RefreshToken: "r"}).Token(t.Context(), nil)
		if err != nil || got.RefreshToken != want {
			t.Errorf("%s: got %#v and %v, want the refresh token %s", sends, got, err, want)
		}
	}
}

func TestARefusalsFieldsAreThoseOfTheReply(t *testing.T) {
	body := `{"error":"invalid_request","error_description":"no\nscope","error_uri":"https://example.com/help"}`
	_, err := endpointReply(400, http.Header{"Retry-After": {"7"}}, body).Exchange(t.Context(), anyGrant)
	want := tokensource.EndpointError{StatusCode: 400, Code: "invalid_request", Description: "no\nscope", URI: "https://example.com/help", RetryAfter: 7 * time.Second}
	if got, _ := errors.AsType[*tokensource.EndpointError](err); got == nil || *got != want {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestWhatTheServerSaysStaysOnOneShortLine(t *testing.T) {
	for _, said := range []string{
		"a\r\nlevel=ERROR forged", "a\x1b[31mred\x00", "a\u2028b\u202ec", strings.Repeat("long ", 1000), strings.Repeat("é", 150), "x" + strings.Repeat("é", 150), "\xff\xfe",
	} {
		e := &tokensource.EndpointError{StatusCode: 400, Code: said, Description: said}
		got := e.Error()
		if strings.ContainsAny(got, "\r\n\x1b\x00\u2028\u202e") || !utf8.ValidString(got) || len(got) > 1000 {
			t.Errorf("got %q, want one short line of UTF-8", got)
		}
	}
	for said, want := range map[string]string{
		strings.Repeat("é", 300):       strings.Repeat("é", 300),
		strings.Repeat("é", 450):       strings.Repeat("é", 300) + "…",
		"x" + strings.Repeat("é", 450): "x" + strings.Repeat("é", 299) + "…",
		strings.Repeat("\x80", 1000):   "…",
	} {
		want = "tokensource: the token endpoint answered 400: " + want
		if e := (&tokensource.EndpointError{StatusCode: 400, Description: said}); e.Error() != want {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
	}
}

func TestRetryAfterIsReadAsSecondsOrADate(t *testing.T) {
	const forEver = time.Duration(1<<63 - 1)
	date := func(h string) http.Header {
		return http.Header{"Date": {"Wed, 21 Oct 2015 07:28:00 GMT"}, "Retry-After": {h}}
	}
	for value, want := range map[string]time.Duration{
		"120":                               2 * time.Minute,
		"0":                                 0,
		"Wed, 21 Oct 2015 07:28:30 GMT":     30 * time.Second,
		"Wed, 21 Oct 2015 07:27:30 GMT":     0,
		"Wednesday, 21-Oct-15 07:29:00 GMT": time.Minute,
		"Fri, 31 Dec 9999 23:59:59 GMT":     forEver,
		"9223372036":                        9223372036 * time.Second,
		"9223372037":                        forEver,
		"99999999999999999999999999":        forEver,
		"-5":                                0,
		"1.5":                               0,
		"soon":                              0,
		"":                                  0,
	} {
		_, err := endpointReply(503, date(value), "").Exchange(t.Context(), anyGrant)
		if e, _ := errors.AsType[*tokensource.EndpointError](err); e == nil || e.RetryAfter != want {
			t.Errorf("Retry-After %q: got %#v, want %v", value, e, want)
		}
	}
}

func TestRetryAfterADateCountsFromNowIfTheReplyHasNoDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)
		_, err := endpointReply(503, http.Header{"Retry-After": {at}}, "").Exchange(t.Context(), anyGrant)
		if e, _ := errors.AsType[*tokensource.EndpointError](err); e == nil || e.RetryAfter != 30*time.Second {
			t.Errorf("got %#v, want 30s", e)
		}
	})
}

func TestAFormHasLifetimesAndTheURIOfAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		media, now := contentType("application/x-www-form-urlencoded"), time.Now()
		got, err := endpointReply(200, media, "access_token=a&expires_in=60&refresh_in=30").Exchange(t.Context(), anyGrant)
		if err != nil || !got.Expiry.Equal(now.Add(time.Minute)) || !got.RefreshAt.Equal(now.Add(30*time.Second)) {
			t.Errorf("got %#v and %v, want a minute, and 30s before a refresh", got, err)
		}
		_, err = endpointReply(400, media, "error=invalid_scope&error_uri=https%3A%2F%2Fexample.com").Exchange(t.Context(), anyGrant)
		if e, _ := errors.AsType[*tokensource.EndpointError](err); e == nil || e.URI != "https://example.com" {
			t.Errorf("got %#v, want the URI", e)
		}
	})
}

// endpointServer counts the requests to a token endpoint.
func endpointServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv, &n
}

func TestNoRedirectIsFollowed(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		other, seen := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
		srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL+"/token")
			w.WriteHeader(status)
		})
		client := srv.Client()
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
		e := tokensource.Endpoint{URL: srv.URL, ClientID: "app", ClientSecret: "hush-hush", Client: client}
		tok, err := e.Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, fmt.Sprintf("tokensource: the token endpoint answered %d: a redirect, which is not followed", status))
		if seen.Load() != 0 {
			t.Errorf("%d: the other server saw %d requests, want none", status, seen.Load())
		}
		if client.CheckRedirect(nil, nil) != nil {
			t.Error("the user's CheckRedirect was changed")
		}
	}
}

// An endless body counts what is read of it.
type endless struct{ read, closed int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return copy(p, strings.Repeat("x", len(p))), nil
}
func (e *endless) Close() error { e.closed++; return nil }

func TestAtMostOneMiBOfAReplyIsRead(t *testing.T) {
	for _, status := range []int{200, 500} {
		body := &endless{}
		e := endpointReply(status, nil, "")
		e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: body}, nil
		})
		tok, err := e.Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, fmt.Sprintf("tokensource: the token endpoint answered %d: reply: more than 1048576 bytes", status))
		if body.read > 1<<20+1 || body.closed != 1 {
			t.Errorf("read %d bytes and closed %d times, want at most 1 MiB and once", body.read, body.closed)
		}
	}
}

func TestAServerThatNeverStopsIsCutOff(t *testing.T) {
	stopped := make(chan struct{})
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(stopped)
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 64<<10))
		}
	})
	tok, err := tokensource.Endpoint{URL: srv.URL}.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: more than 1048576 bytes")
	<-stopped
}

func TestAReplyOfExactlyOneMiBIsRead(t *testing.T) {
	body := `{"access_token":"at"}`
	body += strings.Repeat(" ", 1<<20-len(body))
	if tok, err := endpointReply(200, nil, body).Exchange(t.Context(), anyGrant); err != nil || tok.AccessToken != "at" {
		t.Errorf("got %v, %v, want the token", tok, err)
	}
}

func TestATruncatedReplyIsAnEndpointError(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"access_token":"hush"}`)
	})
	tok, err := tokensource.Endpoint{URL: srv.URL}.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: unexpected EOF")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want io.ErrUnexpectedEOF wrapped", err)
	}
}

// sentTo returns the request and its form that e sends.
func sentTo(t *testing.T, e tokensource.Endpoint, form url.Values) (*http.Request, url.Values) {
	t.Helper()
	var got *http.Request
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		got = r
		io.WriteString(w, `{"access_token":"at"}`)
	})
	e.URL = srv.URL + "/token?tenant=7"
	if _, err := e.Exchange(t.Context(), form); err != nil {
		t.Fatal(err)
	}
	return got, got.PostForm
}

const oddID, oddSecret = "id:é +&=%", "s:é +&=%/\"\n"

func TestBasicCarriesIDAndSecretFormEncoded(t *testing.T) {
	r, form := sentTo(t, tokensource.Endpoint{ClientID: oddID, ClientSecret: oddSecret}, anyGrant)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("id%3A%C3%A9+%2B%26%3D%25:s%3A%C3%A9+%2B%26%3D%25%2F%22%0A"))
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !reflect.DeepEqual(form, anyGrant) {
		t.Errorf("got the form %v, want %v", form, anyGrant)
	}
}

func TestPostCarriesIDAndSecretInTheForm(t *testing.T) {
	r, form := sentTo(t, tokensource.Endpoint{ClientID: oddID, ClientSecret: oddSecret, ClientSecretPost: true}, anyGrant)
	want := url.Values{"grant_type": {"client_credentials"}, "client_id": {oddID}, "client_secret": {oddSecret}}
	if !reflect.DeepEqual(form, want) || r.Header.Get("Authorization") != "" {
		t.Errorf("got %v and Authorization %q, want %v and none", form, r.Header.Get("Authorization"), want)
	}
}

func TestAPublicClientSendsItsIDAlone(t *testing.T) {
	for _, post := range []bool{false, true} {
		r, form := sentTo(t, tokensource.Endpoint{ClientID: "app", ClientSecretPost: post}, anyGrant)
		want := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}}
		if !reflect.DeepEqual(form, want) || r.Header.Get("Authorization") != "" {
			t.Errorf("got %v and Authorization %q, want %v and none", form, r.Header.Get("Authorization"), want)
		}
	}
}

func TestTheRequestIsAFormPostThatAsksForJSON(t *testing.T) {
	r, _ := sentTo(t, tokensource.Endpoint{}, anyGrant)
	got := []string{r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Accept")}
	want := []string{"POST", "/token?tenant=7", "application/x-www-form-urlencoded", "application/json"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParamsAreSentAndTheGrantsWin(t *testing.T) {
	params := url.Values{"audience": {"a", "b"}, "scope": {"all"}, "client_id": {"other"}, "grant_type": {"password"}}
	form := url.Values{"grant_type": {"refresh_token"}, "scope": {"few"}}
	params0, form0 := maps.Clone(params), maps.Clone(form)
	_, got := sentTo(t, tokensource.Endpoint{ClientID: "app", Params: params}, form)
	want := url.Values{"audience": {"a", "b"}, "scope": {"few"}, "client_id": {"app"}, "grant_type": {"refresh_token"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !reflect.DeepEqual(params, params0) || !reflect.DeepEqual(form, form0) {
		t.Errorf("the caller's maps became %v and %v, want %v and %v", params, form, params0, form0)
	}
}

func TestScopesAreJoined(t *testing.T) {
	var got url.Values
	e := endpointReply(200, nil, "")
	e.Client.Transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		got = req.PostForm
		return nil, errors.New("enough")
	})
	(&tokensource.ClientCredentials{Endpoint: e, Scopes: []string{"a", "b"}}).Token(t.Context(), nil)
	if want := (url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}, "scope": {"a b"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnEndpointIsSafeForConcurrentUse(t *testing.T) {
	srv, n := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	e := tokensource.Endpoint{URL: srv.URL, ClientID: "app", ClientSecret: "hush", ClientSecretPost: true, Params: url.Values{"client_id": {"x"}, "a": {"b"}}}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := e.Exchange(t.Context(), anyGrant); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n.Load() != 20 {
		t.Errorf("got %d requests, want 20", n.Load())
	}
}

// dialCounter is a client whose names all lead to srv.
func dialCounter(srv *httptest.Server) (*http.Client, *atomic.Int32) {
	var dials atomic.Int32
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}}}, &dials
}

func TestPlainHTTPIsForLoopbackOrWithAllowHTTP(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	for _, c := range []struct {
		url   string
		allow bool
		want  int32
	}{
		{"http://login.example.com/token", false, 0},
		{"HTTP://10.0.0.1/token", false, 0},
		{"http://127.0.0.1.example.com/token", false, 0},
		{"http://login.example.com/token", true, 1},
		{"http://localhost:1/token", false, 1},
		{"http://127.0.0.1:1/token", false, 1},
		{"http://[::1]:1/token", false, 1},
	} {
		client, dials := dialCounter(srv)
		e := tokensource.Endpoint{URL: c.url, AllowHTTP: c.allow, ClientSecret: "hush-hush", Client: client}
		_, err := e.Exchange(t.Context(), anyGrant)
		if (err == nil) != (c.want == 1) || dials.Load() != c.want {
			t.Errorf("%s, AllowHTTP %t: got %d dials, %v, want %d", c.url, c.allow, dials.Load(), err, c.want)
		}
	}
}

func TestAPlainTokenRequestToLoopbackDoesNotGoByAProxy(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	client, dials := dialCounter(srv)
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"})
	e := tokensource.Endpoint{URL: "http://localhost/token", Client: client}
	_, err := e.Exchange(t.Context(), anyGrant)
	if err == nil || !strings.Contains(err.Error(), "Endpoint.URL: http to localhost goes unencrypted to a proxy on another machine") || dials.Load() != 0 {
		t.Errorf("got %d dials and %v, want an error that tells of the proxy", dials.Load(), err)
	}
}

func TestAnEndpointNeedsAnAbsoluteURL(t *testing.T) {
	for _, s := range []string{"", "/token", "login.example.com/token", "https:///hush", "https://hush%zz", ":hush", "https://a\nhush"} {
		_, err := tokensource.Endpoint{URL: s}.Exchange(t.Context(), anyGrant)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "Endpoint.URL") {
			t.Errorf("%q: got %v, want an error that names the field and does not quote it", s, err)
		}
	}
}

func TestNetworkErrorsDoNotQuoteTheURL(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	nested := &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.RequestURI = ""
		return http.DefaultClient.Do(req)
	})}
	for _, client := range []*http.Client{nil, srv.Client(), nested} {
		e := tokensource.Endpoint{URL: srv.URL + "/token?key=hush-hush", ClientSecret: "hush-hush", Client: client}
		_, err := e.Exchange(t.Context(), anyGrant)
		if err == nil || strings.Contains(err.Error(), "hush") || !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF without the URL", err)
		}
	}
}

func TestAnErrorIsThatOfTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // else net/http does not notice that the client left
		cancel()
		<-r.Context().Done()
	})
	if _, err := (tokensource.Endpoint{URL: srv.URL}).Exchange(ctx, anyGrant); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
