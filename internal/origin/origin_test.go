package origin_test

import (
	"net/http"
	"net/url"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/tokentripper/tokentripper/internal/origin"
)

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCaseAndDefaultPortsDoNotMatter(t *testing.T) {
	for _, pair := range [][2]string{
		{"https://api.example.com", "HTTPS://API.example.COM/path?q#f"},
		{"https://api.example.com", "https://api.example.com:443"},
		{"https://api.example.com", "https://api.example.com:"},
		{"http://api.example.com", "http://api.example.com:80/"},
		{"https://[2001:db8::A]", "https://[2001:DB8::a]:443"},
		{"https://user:password@api.example.com", "https://api.example.com"},
	} {
		a, b := origin.Of(parseURL(t, pair[0])), origin.Of(parseURL(t, pair[1]))
		if a != b {
			t.Errorf("%s is %v and %s is %v, want the same origin", pair[0], a, pair[1], b)
		}
	}
}

func TestSchemeHostAndPortMatter(t *testing.T) {
	for _, pair := range [][2]string{
		{"https://api.example.com", "http://api.example.com"},
		{"https://api.example.com", "http://api.example.com:443"},
		{"https://api.example.com", "https://api.example.com:80"},
		{"https://api.example.com", "https://api.example.com:8443"},
		{"https://api.example.com", "https://example.com"},
		{"https://api.example.com", "https://api.example.com.evil.test"},
		{"https://api.example.com", "https://xapi.example.com"},
		{"https://api.example.com", "https://api.example.com.:443"},
		{"https://api.example.com", "https://api.example.com@evil.test"},
		{"http://127.0.0.1", "http://localhost"},
		{"https://[::443]", "https://[:]"},
	} {
		a, b := parseURL(t, pair[0]), &url.URL{}
		if u, err := url.Parse(pair[1]); err == nil {
			b = u
		}
		if got := origin.Of(a); got == origin.Of(b) {
			t.Errorf("%s and %s are both %v, want two origins", pair[0], pair[1], got)
		}
	}
}

// url.Parse refuses most of them, but a program may make such a URL without it.
func TestAHostWithTwoPortsIsTheOriginOfNoOther(t *testing.T) {
	for _, scheme := range []string{"https", "http", "ftp"} {
		for _, pair := range [][2]string{{"a", "a:443:"}, {"a", "a:80:80"}, {"a:80", "a:80:"}, {"a:80", "a:80:443"}, {"[::1]:8080", "[::1]:8080:80"}} {
			one, other := &url.URL{Scheme: scheme, Host: pair[0]}, &url.URL{Scheme: scheme, Host: pair[1]}
			if got := origin.Of(one); got == origin.Of(other) {
				t.Errorf("%v and %v are both %v; net/http dials %q and %q", one, other, got, dialled(one), dialled(other))
			}
		}
	}
}

// Each code point stands once where an i, an s or a k could stand, the letters to
// which the case folding of Unicode leads from outside of ASCII, and all others.
func TestHostsOfOneOriginAreDialledAsOneName(t *testing.T) {
	with := func(r rune) *url.URL { return &url.URL{Scheme: "https", Host: "a" + string(r) + "b.example"} }
	first := make(map[origin.Origin]rune)
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue // no code point
		}
		other, seen := first[origin.Of(with(r))]
		if !seen {
			first[origin.Of(with(r))] = r
		} else if got, want := dialled(with(r)), dialled(with(other)); got != want {
			t.Errorf("hosts with %U and %U are one origin, and net/http dials %q and %q", r, other, got, want)
		}
	}
	if len(first) < 1_000_000 {
		t.Errorf("got %d origins, want one for nearly each code point", len(first))
	}
}

// What is unencrypted leaves the machine by a proxy on another one.
func TestAnUnencryptedRequestIsPrivateAsFarAsItsProxy(t *testing.T) {
	by := func(proxy string) *http.Transport {
		return &http.Transport{Proxy: http.ProxyURL(parseURL(t, proxy))}
	}
	for name, c := range map[string]struct {
		base http.RoundTripper
		url  string
		want bool
	}{
		"a remote proxy":                       {by("http://proxy.example:3128"), "http://localhost", false},
		"a remote proxy, over TLS":             {by("https://proxy.example:3128"), "http://127.0.0.1", false},
		"a remote proxy below a layer":         {layer{layer{by("http://proxy.example:3128")}}, "http://localhost", false},
		"a remote proxy, and TLS to the API":   {by("http://proxy.example:3128"), "https://api.example", true},
		"a proxy on this machine":              {by("http://127.0.0.1:3128"), "http://localhost", true},
		"a proxy from the environment":         {&http.Transport{Proxy: http.ProxyFromEnvironment}, "http://localhost", true},
		"no proxy":                             {&http.Transport{}, "http://localhost", true},
		"another kind of base":                 {layer{nil}, "http://localhost", true},
		"no proxy, and not this machine":       {&http.Transport{}, "http://api.example", false},
		"a layer that has itself below itself": {new(ring), "http://localhost", true},
	} {
		if err := origin.CheckPrivate(c.base, &http.Request{URL: parseURL(t, c.url)}); (err == nil) != c.want {
			t.Errorf("%s: %s: got %v, want it to be private: %t", name, c.url, err, c.want)
		}
	}
}

// A layer has another RoundTripper below it, and tells.
type layer struct{ http.RoundTripper }

func (l layer) WrappedRoundTripper() http.RoundTripper { return l.RoundTripper }

type ring struct{ http.RoundTripper }

func (r *ring) WrappedRoundTripper() http.RoundTripper { return r }

func TestParseTakesWhatOfReturns(t *testing.T) {
	for _, s := range []string{
		"https://api.example.com", "https://api.example.com/", "HTTPS://API.EXAMPLE.COM:443",
		"http://127.0.0.1:8080", "https://[::1]:8443", "https://localhost:",
	} {
		got, ok := origin.Parse(s)
		if want := origin.Of(parseURL(t, s)); !ok || got != want {
			t.Errorf("Parse(%q) = %v, %t, want %v", s, got, ok, want)
		}
	}
}

func TestParseTakesNothingButAnOrigin(t *testing.T) {
	for _, s := range []string{
		"", "api.example.com", "//api.example.com", "https:", "https://", "https:///", "https://:443", "://api.example.com",
		"https://api.example.com/path", "https://api.example.com//", "https://api.example.com?q", "https://api.example.com#f",
		"https://user@api.example.com", "https://*.example.com", "https://a b", " https://api.example.com",
		"https://a.example.com, https://b.example.com", "https://a.example.com,b.example.com", "https://a.example.com\n",
		`https://api.example.com\@evil.test`,
		"https://api.example.com:80:443", "https://api.example.com::443", "https://api.example.com:https", "https://::1", "https://[::1", "https://[api.example.com]",
		"https://[fe80::1%25eth0]", "https://a%41.example.com", "https://a\x00.example.com", "https://:8443", "1https://api.example.com", "ht_tp://api.example.com",
	} {
		if got, ok := origin.Parse(s); ok {
			t.Errorf("Parse(%q) = %v, want that it is no origin", s, got)
		}
	}
}

func TestPrivateIsEncryptedOrLoopback(t *testing.T) {
	for s, want := range map[string]bool{
		"https://api.example.com":    true,
		"HTTPS://api.example.com":    true,
		"http://localhost:8080":      true,
		"http://LocalHost":           true,
		"http://127.0.0.1":           true,
		"http://127.8.9.10:80":       true,
		"http://[::1]:80":            true,
		"http://[::ffff:127.0.0.1]":  true,
		"http://api.example.com":     false,
		"http://localho\u017ft":      false,
		"http://localhost.evil.test": false,
		"http://127.0.0.1.evil.test": false,
		"http://127.1":               false,
		"http://0.0.0.0":             false,
		"http://10.0.0.1":            false,
		"http://[::]":                false,
		"ftp://api.example.com":      false,
		"//api.example.com":          false,
	} {
		if got := origin.Private(parseURL(t, s)); got != want {
			t.Errorf("Private(%s) = %t, want %t", s, got, want)
		}
	}
}
