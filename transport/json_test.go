package transport_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/transport"
)

// jsonAnswer is a response with a body of JSON.
func jsonAnswer(status int, body string) *http.Response {
	resp := bodyAnswer(status, strings.NewReader(body))
	resp.Header.Set("Content-Type", "application/json; charset=utf-8")
	return resp
}

// Bodies, and whether they have a value at a path.
var values = []struct {
	body, path, value string
	want              bool
}{
	{`{"error":"ExpiredToken","message":"x"}`, "error", "ExpiredToken", true},
	{`{"ok":false,"error":"token_expired"}`, "error", "token_expired", true},
	{`{"ok":false,"error":"token_expired"}`, "ok", "false", true},
	{`{"data":null,"errors":[{"message":"x"},{"extensions":{"code":"invalid-jwt"}}]}`, "errors.extensions.code", "invalid-jwt", true},
	{`[{"data":{}},{"errors":[{"extensions":{"code":"invalid-jwt"}}]}]`, "errors.extensions.code", "invalid-jwt", true},
	{`{"errors":["permission denied","invalid token"]}`, "errors", "invalid token", true},
	{`{"code":99991677,"msg":"x"}`, "code", "99991677", true},
	{`{"code":"99991677"}`, "code", "99991677", true},
	{" \n{\"error\" : \"\\u0045xpiredToken\"}\r\n", "error", "ExpiredToken", true},
	{`["invalid token"]`, "", "invalid token", true},
	{`{"a":{"":{"b":1}}}`, "a..b", "1", true},
	{`{"error":"}\"]{","code":1}`, "code", "1", true},

	{`{"error":"ExpiredToken"}`, "error", "Expired", false},
	{`{"error":"ExpiredToken"}`, "Error", "ExpiredToken", false},
	{`{"error":{"error":"ExpiredToken"}}`, "error", "ExpiredToken", false},
	{`{"error":"ExpiredToken"}`, "error.code", "ExpiredToken", false},
	{`{"error":"ExpiredToken"}`, "", "ExpiredToken", false},
	{`{"other":"ExpiredToken"}`, "error", "ExpiredToken", false},
	{`{"code":9.9991677e7}`, "code", "99991677", false},
	{`{"error":"ExpiredToken"`, "error", "ExpiredToken", false},
	{`{"error":"ExpiredToken"]`, "error", "ExpiredToken", false},
	{`{"error":"ExpiredToken"} {"more":1}`, "error", "ExpiredToken", false},
	{`"ExpiredToken"`, "", "ExpiredToken", false},
	{`data: {"error":"ExpiredToken"}`, "error", "ExpiredToken", false},
	{``, "error", "ExpiredToken", false},
	{`{"":"x"}`, "", "x", false},
	{`{"error":"ExpiredToken"}`, "error.code", "", false},
	{`{"code":1}`, "code.code", "1", false},
	{strings.Repeat("[", 31) + `1` + strings.Repeat("]", 31), "", "1", true},
	{strings.Repeat("[", 32) + `1` + strings.Repeat("]", 32), "", "1", false},
	{strings.Repeat(`{"a":`, 31) + `1` + strings.Repeat("}", 31), strings.Repeat(".a", 31)[1:], "1", true},
	{strings.Repeat(`{"a":`, 32) + `1` + strings.Repeat("}", 32), strings.Repeat(".a", 32)[1:], "1", false},
}

func TestAValueIsFoundAtItsPath(t *testing.T) {
	for _, c := range values {
		resp := jsonAnswer(200, c.body)
		if got := transport.HasJSON(resp, c.path, "else", c.value); got != c.want {
			t.Errorf("%s: has %q at %q: got %t, want %t", c.body, c.value, c.path, got, c.want)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != c.body || err != nil {
			t.Errorf("%s: the caller got %q and %v", c.body, got, err)
		}
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) { u.t.Error("the body was read"); return 0, io.EOF }
func (unread) Close() error               { return nil }

// writable is the body of an upgrade.
type writable struct{ unread }

func (writable) Write(p []byte) (int, error) { return len(p), nil }

// What a response's status and headers may say, so that its body is not touched.
var noJSON = map[string]func(*http.Response){
	"no Content-Type":  func(resp *http.Response) { resp.Header = nil },
	"text":             func(resp *http.Response) { resp.Header.Set("Content-Type", "text/json") },
	"an event stream":  func(resp *http.Response) { resp.Header.Set("Content-Type", "text/event-stream") },
	"lines of JSON":    func(resp *http.Response) { resp.Header.Set("Content-Type", "application/x-ndjson") },
	"a stream of JSON": func(resp *http.Response) { resp.Header.Set("Content-Type", "application/stream+json") },
	"a sequence":       func(resp *http.Response) { resp.Header.Set("Content-Type", "application/json-seq") },
	"compressed":       func(resp *http.Response) { resp.Header.Set("Content-Encoding", "br") },
	"longer":           func(resp *http.Response) { resp.ContentLength = 64*kib + 1 },
	"HEAD":             func(resp *http.Response) { resp.Request.Method = "HEAD" },
	"CONNECT":          func(resp *http.Response) { resp.Request.Method = "CONNECT" },
	"with trailers":    func(resp *http.Response) { resp.Trailer = http.Header{"X-Sum": nil} },
	"101":              func(resp *http.Response) { resp.StatusCode = 101 },
	"204":              func(resp *http.Response) { resp.StatusCode = 204 },
	"304":              func(resp *http.Response) { resp.StatusCode = 304 },
	"an upgrade":       func(resp *http.Response) { resp.Body = writable{} },
	"no body":          func(resp *http.Response) { resp.Body = nil },
	"an empty body":    func(resp *http.Response) { resp.Body = http.NoBody },
}

func TestABodyThatCannotTellIsNotTouchedAtNoCost(t *testing.T) {
	for name, change := range noJSON {
		resp := jsonAnswer(200, "")
		resp.Request, resp.Body = postBody(t, "https://api.example", nil), unread{t}
		change(resp)
		before := resp.Body
		allocs := testing.AllocsPerRun(100, func() {
			if transport.HasJSON(resp, "errors.extensions.code", "invalid-jwt", "x") || transport.PeekJSON(resp) != nil || resp.Body != before {
				t.Errorf("%s: got JSON, or another body", name)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: got %v allocations, want none", name, allocs)
		}
	}
}

func TestJSONIsWhatTheMediaTypeSaysWhateverItsCase(t *testing.T) {
	for _, media := range []string{"application/json", "Application/JSON ; charset=utf-8", "application/problem+json", " application/vnd.api+JSON"} {
		resp := jsonAnswer(400, `{"code":1}`)
		resp.Header.Set("Content-Type", media)
		if !transport.HasJSON(resp, "code", "1") {
			t.Errorf("%s: got no JSON, want some", media)
		}
	}
}

func TestAValueOf64KiBIsReadAndNoLongerOne(t *testing.T) {
	for size, want := range map[int]bool{64 * kib: true, 64*kib + 1: false} {
		for _, length := range []int64{-1, int64(size)} {
			resp := jsonAnswer(200, `["`+strings.Repeat("x", size-4)+`"]`)
			resp.ContentLength = length
			if got := transport.PeekJSON(resp) != nil; got != want {
				t.Errorf("%d bytes, Content-Length %d: got JSON: %t, want %t", size, length, got, want)
			}
		}
	}
}

// Two rules may look at one body, and so may a DPoP and an Auth.
func TestABodyIsReadAheadOnce(t *testing.T) {
	resp := jsonAnswer(200, `{"a":1,"b":2}`)
	if transport.HasJSON(resp, "a", "2") {
		t.Error("got a value that is elsewhere")
	}
	body := resp.Body
	if !transport.HasJSON(resp, "b", "2") || string(transport.PeekJSON(resp)) != `{"a":1,"b":2}` || resp.Body != body {
		t.Error("the second look saw less, or read again")
	}
}

func BenchmarkHasJSON(b *testing.B) {
	for name, media := range map[string]string{"another type": "text/html; charset=utf-8", "a refusal": "application/json; charset=utf-8"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			resp := jsonAnswer(200, "")
			resp.Header.Set("Content-Type", media)
			body := newAgain(0)
			body.text = `{"ok":false,"error":"token_expired"}`
			for b.Loop() {
				body.Close()
				resp.Body = body
				transport.HasJSON(resp, "error", "token_expired")
			}
		})
	}
}

// valuesAt is HasJSON by another way: all values of a tree at a path.
func valuesAt(tree any, path []string) (values []string) {
	switch v := tree.(type) {
	case []any:
		for _, item := range v {
			values = append(values, valuesAt(item, path)...)
		}
		return values
	case map[string]any:
		if len(path) > 0 {
			if member, ok := v[path[0]]; ok {
				return valuesAt(member, path[1:])
			}
		}
		return nil
	}
	if len(path) > 0 {
		return nil
	}
	if tree == nil {
		return []string{"null"}
	}
	return []string{fmt.Sprint(tree)}
}

// found is what HasJSON shall report of a body that consists of text.
func found(text, path, value string) bool {
	var tree any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&tree) != nil {
		return false
	}
	var names []string
	for name := ""; path != ""; names = append(names, name) {
		name, path, _ = strings.Cut(path, ".")
	}
	return slices.Contains(valuesAt(tree, names), value)
}

// pieces yields a text, a few bytes at a time.
type pieces struct {
	text io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.text.Read(b[:min(len(b), p.size)]) }

// FuzzHasJSON looks for a value in any body, which comes in pieces of any size. It
// finds what encoding/json does if the body is an object or a list and nothing else, and
// the caller gets the body whole.
func FuzzHasJSON(f *testing.F) {
	f.Add(`{"error":"token_expired"}`, "error", "token_expired", 3)
	f.Add(`{"errors":[{"extensions":{"code":"x"}}]}`, "errors.extensions.code", "x", 1)
	f.Add(`[[1],{"":2},null,true] `, "", "1", 100)
	f.Add(`{"a":"\\\"}"}x`, "a", "\\\"}", 5)
	f.Fuzz(func(t *testing.T, body, path, value string, piece int) {
		synctest.Test(t, func(t *testing.T) { // PeekJSON waits 50 ms for the end
			resp := jsonAnswer(200, "")
			resp.Body = io.NopCloser(pieces{strings.NewReader(body), 1 + piece&63})
			peeked := string(transport.PeekJSON(resp))
			if whole := wholeJSON(body); whole != "" && peeked != whole || !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), peeked) || peeked != wholeJSON(peeked) {
				t.Fatalf("%q: got %q, want the value that it consists of, or begins with", body, peeked)
			}
			levels := strings.Count(peeked, "[") + strings.Count(peeked, "{")
			if got, want := transport.HasJSON(resp, path, value), found(peeked, path, value); got != want && (got || levels < 32) {
				t.Fatalf("%q: %q at %q: got %t, want %t", body, value, path, got, want)
			}
			if got, err := io.ReadAll(resp.Body); string(got) != body || err != nil {
				t.Fatalf("%q: the caller got %q and %v", body, got, err)
			}
		})
	})
}

// wholeJSON returns the object or list that a body of at most 64 KiB consists of, or
// nothing.
func wholeJSON(body string) string {
	text := strings.Trim(body, " \t\r\n")
	if len(body) > 64*kib || !json.Valid([]byte(text)) || text[0] != '{' && text[0] != '[' {
		return ""
	}
	return text
}
