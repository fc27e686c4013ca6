package tokensource_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/tokentripper/tokentripper/tokensource"
)

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

func TestASecondBodyFailsIfItsJSONCannotBeMade(t *testing.T) {
	bodies := []any{"first", func() {}}
	e := tokensource.Endpoint{URL: "https://login.example.com", ClientID: "app"}
	e.RequestJSON = func(url.Values) any {
		body := bodies[0]
		bodies = bodies[1:]
		return body
	}
	e.Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		if body, err := req.GetBody(); body != nil || err == nil || !strings.Contains(err.Error(), "Endpoint.RequestJSON") {
			t.Errorf("got %v and %v, want an error of RequestJSON", body, err)
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
		`{"error":"invalid_grant","access_token":1}`,
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
		got, err = endpointReply(200, media, fmt.Sprint("access_token=a&expires_at=", now.Add(time.Hour).Unix())).Exchange(t.Context(), anyGrant)
		if err != nil || !got.Expiry.Equal(now.Add(time.Hour)) {
			t.Errorf("got %#v and %v, want an hour", got, err)
		}
		_, err = endpointReply(400, media, "error=invalid_scope&error_uri=https%3A%2F%2Fexample.com").Exchange(t.Context(), anyGrant)
		if e, _ := errors.AsType[*tokensource.EndpointError](err); e == nil || e.URI != "https://example.com" {
			t.Errorf("got %#v, want the URI", e)
		}
	})
}
