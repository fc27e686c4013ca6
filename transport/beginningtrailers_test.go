package transport_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/transport"
)

// net/http writes trailers into its response while it reads, which goes on when the rule
// has given up. The caller may look at the response meanwhile, as httputil.ReverseProxy does.
func TestTrailersThatComeAfterARuleHasGivenUpDisturbNobody(t *testing.T) {
	for what, over := range map[string]func(http.RoundTripper) http.RoundTripper{
		"Auth":           func(base http.RoundTripper) http.RoundTripper { return lenient(base) },
		"Auth, not Copy": func(base http.RoundTripper) http.RoundTripper { return lenient(base) },
		"DPoP":           func(base http.RoundTripper) http.RoundTripper { return &transport.DPoP{Key: p256, Base: base} },
	} {
		for _, protocol := range protocols {
			goOn, ended := make(chan struct{}), make(chan struct{})
			url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				w.Header().Set("DPoP-Nonce", "n")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest) // else DPoP does not look
				asJSON(w, "[")
				<-goOn
				w.Header().Set(http.TrailerPrefix+"X-Sum", "sum")
			})
			resp, err := over(base).RoundTrip(postBody(t, url, nil))
			if err != nil {
				t.Fatal(err)
			}
			before := *resp
			close(goOn)
			<-ended
			during := *resp
			body := io.Reader(resp.Body)
			if what == "Auth, not Copy" {
				body = struct{ io.Reader }{body}
			}
			n, err := io.Copy(io.Discard, body)
			if n != 1 || err != nil || resp.Trailer.Get("X-Sum") != "sum" {
				t.Errorf("%s, %s: got %d bytes, %v and the trailers %v, want the sum", what, protocol, n, err, resp.Trailer)
			}
			if len(before.Trailer)+len(during.Trailer) > 0 {
				t.Errorf("%s, %s: got trailers before the end", what, protocol)
			}
			resp.Body.Close()
		}
	}
}

// net/http does so with HTTP/2 if a body is shorter than its Content-Length.
func TestTrailersBesideAReadErrorReachTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trailers, end := make(chan struct{}), make(chan struct{})
		base := roundTrip(func(*http.Request) (*http.Response, error) {
			resp := jsonAnswer(200, "")
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("["), readerFunc(func([]byte) (int, error) {
				<-trailers
				resp.Trailer = http.Header{"X-Sum": {"sum"}}
				<-end
				return 0, io.ErrUnexpectedEOF
			})))
			return resp, nil
		})
		resp, err := lenient(base).RoundTrip(postBody(t, "https://api.example", nil))
		if err != nil {
			t.Fatal(err)
		}
		close(trailers)
		synctest.Wait()
		if n, err := resp.Body.Read(make([]byte, 1)); n != 1 || err != nil || len(resp.Trailer) > 0 {
			t.Errorf("got %d bytes, %v and the trailers %v, want the first byte", n, err, resp.Trailer)
		}
		close(end)
		if _, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || resp.Trailer.Get("X-Sum") != "sum" {
			t.Errorf("got %v and the trailers %v, want the error and the sum", err, resp.Trailer)
		}
	})
}
