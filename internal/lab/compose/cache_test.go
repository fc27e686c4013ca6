package compose

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gregjones/httpcache"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// userKey is where a request's context has its user.
type userKey struct{}

func userOf(ctx context.Context) (string, error) { return ctx.Value(userKey{}).(string), nil }

// perUser gives each user a token of his own.
func perUser() tokensource.Source {
	return &tokensource.Keyed[string]{Key: userOf, New: func(user string) *tokensource.Cache {
		return &tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: user})}
	}}
}

// perUserCache has a cache of responses for each user.
type perUserCache struct {
	base   http.RoundTripper
	caches map[string]http.RoundTripper
}

func (c *perUserCache) RoundTrip(req *http.Request) (*http.Response, error) {
	user, _ := userOf(req.Context())
	if c.caches[user] == nil {
		c.caches[user] = caching(c.base)
	}
	return c.caches[user].RoundTrip(req)
}

func caching(base http.RoundTripper) http.RoundTripper {
	return &httpcache.Transport{Transport: base, Cache: httpcache.NewMemoryCache()}
}

// Above Auth, a cache does not see by what the answers differ: the header is added below it.
func TestACacheOfResponsesAboveAuthGivesOneUserAnothersAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, max-age=60")
		w.Header().Set("Vary", "Authorization")
		io.WriteString(w, r.Header.Get("Authorization"))
	}))
	defer srv.Close()
	auth := func(base http.RoundTripper) http.RoundTripper { return &transport.Auth{Source: perUser(), Base: base} }
	for name, c := range map[string]struct {
		rt   http.RoundTripper
		want string // bob's answer, after ann's
	}{
		"above, for all":       {caching(auth(nil)), "Bearer ann"},
		"above, for each user": {&perUserCache{auth(nil), map[string]http.RoundTripper{}}, "Bearer bob"},
		"below":                {auth(caching(nil)), "Bearer bob"},
	} {
		answerTo(t, c.rt, srv.URL, "ann")
		if got := answerTo(t, c.rt, srv.URL, "bob"); got != c.want {
			t.Errorf("a cache %s: bob got %q, want %q", name, got, c.want)
		}
	}
}

func answerTo(t *testing.T, rt http.RoundTripper, url, user string) string {
	t.Helper()
	ctx := context.WithValue(t.Context(), userKey{}, user)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return textOf(t, resp)
}

func textOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
