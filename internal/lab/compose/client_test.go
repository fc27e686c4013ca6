package compose

import (
	"bytes"
	"net/http"
	"net/http/cookiejar"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

// A wireLog notes what goes over the wire; redact, if set, sees a copy first.
type wireLog struct {
	base   http.RoundTripper
	redact func(http.Header)
	log    bytes.Buffer
}

func (l *wireLog) RoundTrip(req *http.Request) (*http.Response, error) {
	out := *req
	if l.redact != nil {
		out.Header = req.Header.Clone()
		l.redact(out.Header)
	}
	dump, err := httputil.DumpRequestOut(&out, false)
	if err == nil {
		l.log.Write(dump)
	}
	return l.base.RoundTrip(req)
}

func TestAWireLogBelowAuthHasTheTokenUnlessItRedacts(t *testing.T) {
	for name, c := range map[string]struct {
		redact func(http.Header)
		want   bool
	}{
		"as it comes": {nil, true},
		"redacting":   {func(h http.Header) { h.Set("Authorization", "…") }, false},
	} {
		l := &wireLog{base: new(api), redact: c.redact}
		wantStatus(t, &transport.Auth{Source: numbered(time.Hour), Base: l}, http.StatusOK)
		if got := strings.Contains(l.log.String(), "token-1"); got != c.want {
			t.Errorf("%s: the log has the token: %v, want %v", name, got, c.want)
		}
	}
}

func TestAWireLogAboveAuthHasNoToken(t *testing.T) {
	l := &wireLog{base: &transport.Auth{Source: numbered(time.Hour), Base: new(api)}}
	wantStatus(t, l, http.StatusOK)
	if strings.Contains(l.log.String(), "token-") || l.log.Len() == 0 {
		t.Errorf("got %q, want the request without token", &l.log)
	}
}

// http.Client makes an Authorization of it, and Auth passes that.
func TestAUserInTheURLIsTheCallersOwnAuthorization(t *testing.T) {
	base := new(api)
	client := &http.Client{Transport: &transport.Auth{Source: numbered(time.Hour), Base: base}}
	resp, err := client.Get("https://user:pass@api.example/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := []string{"200 api.example dXNlcjpwYXNz"}; !slices.Equal(base.seen, want) {
		t.Errorf("got  %q\nwant %q", base.seen, want)
	}
}

// The caller does not see a refusal that another token has cured, and neither
// does the Jar.
func TestACookieOfACuredRefusalIsNotKept(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		a := &api{answers: []answer{{status: 200, refuses: "token-1"}}}
		resp, err := a.RoundTrip(req)
		resp.Header.Set("Set-Cookie", resp.Status[:3]+"=x")
		return resp, err
	})
	client := &http.Client{Transport: &transport.Auth{Source: numbered(time.Hour), Base: base}, Jar: jar}
	resp, err := client.Get("https://api.example/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := jar.Cookies(&url.URL{Scheme: "https", Host: "api.example"})
	if len(got) != 1 || got[0].Name != "200" {
		t.Errorf("got the cookies %v, want that of the 200 alone", got)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
