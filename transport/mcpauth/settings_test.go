package mcpauth_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

// The server answers 403, or 200 with an error in the body.
func TestATokenThatIsRefusedOtherwiseThanBy401IsRefreshed(t *testing.T) {
	for status, refused := range map[int]func(*http.Response) bool{
		403: transport.UnauthorizedOrForbidden,
		200: func(resp *http.Response) bool { return transport.HasJSON(resp, "error", "expired") },
	} {
		w := newWorld()
		var good string
		w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			switch r.Header.Get("Authorization") {
			case "":
				w.answer(rw, r)
			case "Bearer " + good:
			default:
				rw.Header().Set("Content-Type", "application/json")
				rw.WriteHeader(status)
				io.WriteString(rw, `{"error": "expired"}`)
			}
		})
		a := w.auth()
		a.Refused = refused
		for _, good = range []string{"hush-hush-1", "hush-hush-2"} {
			if err := do(t.Context(), a); err != nil || w.logins.Load() != 1 {
				t.Errorf("status %d: got %v after %d logins, want no error and 1 login", status, err, w.logins.Load())
			}
		}
		good = "none"
		wantRefusal(t, "no token is good", do(t.Context(), a), status, false)
	}
}

// The challenge names metadata at an https URL.
func TestAnUnencryptedServerGetsTokensOnlyIfThatIsAllowed(t *testing.T) {
	const server = "http://mcp.example/mcp"
	for allowed, want := range map[bool][]string{false: nil, true: {"", "Bearer hush-hush-1"}} {
		w := newWorld()
		w.json("GET mcp.example/metadata", strings.ReplaceAll(metadataOf, "%", server))
		var got []string
		w.HandleFunc("GET mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			got = append(got, r.Header.Get("Authorization"))
			w.answer(rw, r)
		})
		a := w.auth()
		a.Server, a.AllowHTTP = server, allowed
		_, err := get(t.Context(), a, server)
		if (err == nil) != allowed || !slices.Equal(got, want) {
			t.Errorf("AllowHTTP %v: the server got %q, and the error is %v; want %q", allowed, got, err, want)
		}
	}
}
