package contract_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
)

// second changes the second attempt alone.
func second(change func(*http.Request)) func(http.RoundTripper, *http.Request) (*http.Response, error) {
	return func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") != "Bearer token-2" {
			return base.RoundTrip(req)
		}
		return sends(change)(base, req)
	}
}

// Below Auth, what goes wrong with one of two attempts is found where a server
// refuses the first.
var brokenAgain = map[string]struct {
	trip  func(http.RoundTripper, *http.Request) (*http.Response, error)
	finds map[string]string
}{
	"loses the trailers of the second": {second(func(r *http.Request) { r.Trailer = r.Trailer.Clone() }),
		map[string]string{"the request's trailers arrive": "the trailer: got , want 5"}},

	"loses the context's values in the second": {second(func(r *http.Request) { *r = *r.WithContext(valueless{r.Context()}) }),
		map[string]string{
			"the context's values reach the base":           "got <nil>",
			"the caller's httptrace sees each attempt once": "GotConn: got 1, want 2",
			"the caller's httptrace sees 100 Continue":      "Got100Continue: got",
			"the caller's httptrace sees 103 Early Hints":   "103: got 0",
		}},

	"changes the Host of the second": {second(func(r *http.Request) { r.Host = "other.example" }),
		map[string]string{
			"the server sees the request that the base would send": "GET: Host: got other.example",
			"an opaque URL arrives":                                "from URL.Opaque",
		}},

	"leaves the refusal open": {answers(func(resp *http.Response) {
		if resp.StatusCode == http.StatusUnauthorized && resp.Body != nil {
			resp.Body = io.NopCloser(resp.Body)
		}
	}), map[string]string{"every response of the base is closed": "response 1: times that it was closed: got 0"}},

	// With a trailer, net/http would read it when the attempt that was given up
	// ends, while the caller writes it in the other.
	"ends the body that fails or is given up": {sends(func(r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody && r.Trailer == nil {
			r.Body = unfailing{r.Body}
		}
	}), map[string]string{
		"an attempt that is given up does not look whole": "as if it was whole",
		"a request that the base can't send is an error":  "a body that fails: got <nil>",
	}},
}

func TestRunFindsWhatIsBrokenBelowAuth(t *testing.T) {
	for name, b := range brokenAgain {
		t.Run(name, func(t *testing.T) {
			contract.Run(t, contract.Subject{
				New: func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
					return auth(&layer{base, b.trip}, token)
				},
				Tokens:  true,
				Refuses: firstToken,
				Breaks:  b.finds,
			})
		})
	}
}
