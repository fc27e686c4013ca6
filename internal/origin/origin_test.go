package origin_test

import (
	"net/url"
	"testing"

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
