package compose

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A retry is go-retryablehttp made fit to stand between an http.Client and Auth.
type retry struct{ rt retryablehttp.RoundTripper }

func newRetry(base http.RoundTripper) *retry {
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.HTTPClient = &http.Client{
		Transport: base,
		// Redirects are for the http.Client above, which has the cookies. Below
		// Auth they would carry the token along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	// The last answer comes as it is, not as an error.
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	client.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if errors.Is(err, tokensource.ErrReauthenticate) {
			return false, err // only a login helps
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	return &retry{retryablehttp.RoundTripper{Client: client}}
}

// RoundTrip makes up for two faults: go-retryablehttp puts a Body of its own
// into the request, and does not close the caller's, which it reads to the end
// before it sends anything.
func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	out := *req
	if req.Body != nil {
		defer req.Body.Close()
	}
	resp, err := r.rt.RoundTrip(&out)
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

// fit is newRetry as the tables want it.
func fit(base http.RoundTripper) http.RoundTripper { return newRetry(base) }

func (r *retry) CloseIdleConnections() { r.rt.Client.HTTPClient.CloseIdleConnections() }

// retrying is go-retryablehttp as it comes.
func retrying(base http.RoundTripper) http.RoundTripper {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: base}
	client.Logger = nil
	return &retryablehttp.RoundTripper{Client: client}
}

// readsAhead is what no adapter can mend: a body is in memory before it is sent.
var readsAhead = contract.ReadsAhead(map[string]string{
	"a deadline is a timeout, wherever it passes":          "sending: got the body fails",
	"the server sees the request that the base would send": "empty body: ContentLength: got 0, want -1",
	"every status is a response":                           "503: attempts, without those refused: got 5, want 1", // what it is for
})

func TestRetriesAboveAuthKeepTheContractButReadAhead(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return newRetry(auth(base, token))
	}, readsAhead)
}

func TestRetriesBelowAuthKeepTheContractButReadAhead(t *testing.T) {
	keepsTheContract(t, func(base http.RoundTripper, token contract.TokenFunc) http.RoundTripper {
		return auth(newRetry(base), token)
	}, readsAhead)
}

func TestGoRetryablehttpAsItComesChangesTheRequestAndLeavesItsBodyOpen(t *testing.T) {
	for name, c := range map[string]struct {
		layer           func(http.RoundTripper) http.RoundTripper
		changed, closed bool
	}{
		"as it comes":   {retrying, true, false},
		"with this one": {fit, false, true},
	} {
		body := &closing{Reader: strings.NewReader("hello")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example/", body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.layer(new(api)).RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if changed := req.Body != body; changed != c.changed || body.closed != c.closed {
			t.Errorf("%s: changed: %v, closed: %v; want %v, %v", name, changed, body.closed, c.changed, c.closed)
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// The retries begin at 1 s and double.
func TestRetriesAboveAuthCarryTheTokenOfTheMomentAndThoseBelowAnExpiredOne(t *testing.T) {
	for name, c := range map[string]struct {
		client func(a *transport.Auth, base http.RoundTripper) http.RoundTripper
		want   []string
	}{
		"above": {func(a *transport.Auth, base http.RoundTripper) http.RoundTripper {
			a.Base = base
			return newRetry(a)
		}, []string{"503 api.example token-1", "200 api.example token-2"}},
		"below": {func(a *transport.Auth, base http.RoundTripper) http.RoundTripper {
			a.Base = newRetry(base)
			return a
		}, []string{"503 api.example token-1", "401 api.example token-1", "200 api.example token-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &api{answers: []answer{{status: 503}, {status: 200, refuses: "token-1"}}}
				rt := c.client(&transport.Auth{Source: numbered(500 * time.Millisecond)}, base)
				wantStatus(t, rt, http.StatusOK)
				if !slices.Equal(base.seen, c.want) {
					t.Errorf("got  %q\nwant %q", base.seen, c.want)
				}
			})
		})
	}
}

func get(t *testing.T, rt http.RoundTripper) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return (&http.Client{Transport: rt}).Do(req)
}

func wantStatus(t *testing.T, rt http.RoundTripper, want int) {
	t.Helper()
	resp, err := get(t, rt)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("got status %d, want %d", resp.StatusCode, want)
	}
}

// Without the CheckRetry of newRetry, go-retryablehttp takes it for an outage.
func TestRetriesAboveAuthWaitInVainForALogin(t *testing.T) {
	dead := func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, tokensource.ErrReauthenticate
	}
	for name, c := range map[string]struct {
		layer func(http.RoundTripper) http.RoundTripper
		want  time.Duration
	}{
		"as it comes":      {retrying, 15 * time.Second}, // 1+2+4+8
		"with this policy": {fit, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				rt := c.layer(&transport.Auth{Source: &tokensource.Cache{Source: tokensource.Func(dead)}, Base: new(api)})
				if _, err := get(t, rt); !errors.Is(err, tokensource.ErrReauthenticate) {
					t.Errorf("got %v, want ErrReauthenticate", err)
				}
				if got := time.Since(began); got != c.want {
					t.Errorf("it took %v, want %v", got, c.want)
				}
			})
		})
	}
}

// An http.Client below Auth, as go-retryablehttp has one, follows redirects by
// itself: it takes the token for the caller's own, and hands it on to other
// ports, to subdomains and to plain http.
func TestRetriesBelowAuthThatFollowRedirectsGiveTheTokenAway(t *testing.T) {
	for _, host := range []string{"https://api.example:8443", "https://sub.api.example", "http://api.example"} {
		u, err := url.Parse(host)
		if err != nil {
			t.Fatal(err)
		}
		redirect := []answer{{status: http.StatusFound, location: host}}

		base := &api{answers: redirect}
		wantStatus(t, &transport.Auth{Source: numbered(time.Hour), Base: retrying(base)}, http.StatusOK)
		if want := []string{"302 api.example token-1", "200 " + u.Host + " token-1"}; !slices.Equal(base.seen, want) {
			t.Errorf("as it comes:\ngot  %q\nwant %q", base.seen, want)
		}

		base = &api{answers: redirect}
		wantStatus(t, &transport.Auth{Source: numbered(time.Hour), Base: newRetry(base)}, http.StatusOK)
		if want := []string{"302 api.example token-1", "200 " + u.Host}; !slices.Equal(base.seen, want) {
			t.Errorf("with ErrUseLastResponse:\ngot  %q\nwant %q", base.seen, want)
		}
	}
}

func TestRetriesAboveAuthKeepTheTokenAtItsOrigin(t *testing.T) {
	for name, layer := range map[string]func(http.RoundTripper) http.RoundTripper{
		"as it comes":   retrying,
		"with this one": fit,
	} {
		base := &api{answers: []answer{{status: http.StatusFound, location: "https://other.example"}}}
		wantStatus(t, layer(&transport.Auth{Source: numbered(time.Hour), Base: base}), http.StatusOK)
		if want := []string{"302 api.example token-1", "200 other.example"}; !slices.Equal(base.seen, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, base.seen, want)
		}
	}
}

// A rebuilder makes a request of its own from what it needs.
type rebuilder struct{ base http.RoundTripper }

func (r *rebuilder) RoundTrip(req *http.Request) (*http.Response, error) {
	out, err := http.NewRequestWithContext(req.Context(), req.Method, req.URL.String(), req.Body)
	if err != nil {
		return nil, err
	}
	return r.base.RoundTrip(out)
}

func TestALayerAboveAuthThatRebuildsRequestsNeedsOrigins(t *testing.T) {
	for name, c := range map[string]struct {
		origins []string
		want    []string
	}{
		"without Origins": {nil, []string{"302 api.example token-1", "200 other.example token-1"}},
		"with Origins":    {[]string{"https://api.example"}, []string{"302 api.example token-1", "200 other.example"}},
	} {
		base := &api{answers: []answer{{status: http.StatusFound, location: "https://other.example"}}}
		wantStatus(t, &rebuilder{&transport.Auth{Source: numbered(time.Hour), Base: base, Origins: c.origins}}, http.StatusOK)
		if !slices.Equal(base.seen, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, base.seen, c.want)
		}
	}
}

// A policy below Auth that takes 401 for an outage keeps the refusal from Auth,
// and repeats the refused token meanwhile.
func TestRetriesBelowAuthMustNotRetry401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &api{answers: slices.Repeat([]answer{{status: 200, refuses: "token-1"}}, 10)}
		layer := newRetry(base)
		layer.rt.Client.CheckRetry = func(_ context.Context, resp *http.Response, err error) (bool, error) {
			return err != nil || resp.StatusCode != http.StatusOK, nil
		}
		began := time.Now()
		wantStatus(t, &transport.Auth{Source: numbered(time.Hour), Base: layer}, http.StatusOK)
		if got, want := time.Since(began), 15*time.Second; len(base.seen) != 6 || got != want {
			t.Errorf("got %q after %v, want five refusals and an answer after %v", base.seen, got, want)
		}
	})
}

// go-retryablehttp hands Auth a body without GetBody, unless the caller's request
// has one: then Auth records it, in vain if it is larger than MaxBody.
func TestAnUploadOf5MiBThatIsRetriedNeedsGetBody(t *testing.T) {
	const size = 5 << 20
	for name, c := range map[string]struct {
		body io.Reader
		want int
	}{
		"without GetBody": {io.MultiReader(strings.NewReader(strings.Repeat("x", size))), http.StatusUnauthorized},
		"with GetBody":    {strings.NewReader(strings.Repeat("x", size)), http.StatusOK},
	} {
		base := &api{answers: []answer{{status: 200, refuses: "token-1"}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.example/", c.body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := newRetry(&transport.Auth{Source: numbered(time.Hour), Base: base}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.want {
			t.Errorf("%s: got status %d, want %d", name, resp.StatusCode, c.want)
		}
	}
}
