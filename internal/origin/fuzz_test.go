package origin_test

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/origin"
)

// components is how RFC 3986 takes a reference apart, in its appendix B.
var components = regexp.MustCompile(`(?s)^(([^:/?#]+):)?(//([^/?#]*))?([^?#]*)(\?([^#]*))?(#(.*))?$`)

// canonical are URLs about whose origin nobody can differ: a name or an address
// in ASCII, and perhaps a port without leading zeros.
var canonical = regexp.MustCompile(`^(?:[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9._~-]+|\[[0-9a-f]{0,4}::[0-9a-f]{1,4}\])(:[1-9][0-9]*)?/?)$`)

var port = regexp.MustCompile(`:([0-9]*)$`)

// dialled is the address that net/http connects to for u, in small ASCII letters:
// the case of others has been folded by then, or makes another name.
func dialled(u *url.URL) (address string) {
	dial := func(_ context.Context, _, addr string) (net.Conn, error) {
		address = small(addr)
		return nil, errors.New("only to see where")
	}
	scheme := small(u.Scheme)
	if scheme != "http" { // net/http knows no third
		scheme = "https"
	}
	base := &http.Transport{DialContext: dial, DialTLSContext: dial}
	base.RoundTrip(&http.Request{Method: "GET", URL: &url.URL{Scheme: scheme, Host: u.Host}, Header: http.Header{}})
	return address
}

func small(s string) string {
	b := []byte(s)
	for i, c := range b {
		if strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ", c) >= 0 {
			b[i] = c | 0x20
		}
	}
	return string(b)
}

// encoded are bytes of a name beyond ASCII as a URL may have them (RFC 3986 section
// 3.2.2): of a host, net/url decodes these alone.
var encoded = regexp.MustCompile(`%[89a-f][0-9a-f]`)

// place is where a URL leads: scheme, host and port, read without net/url and by
// the appendix's expression.
func place(s string) [3]string {
	m := components.FindStringSubmatch(s)
	scheme, host := small(m[2]), small(m[4][strings.LastIndex(m[4], "@")+1:])
	host = encoded.ReplaceAllStringFunc(host, func(s string) string {
		b, _ := hex.DecodeString(s[1:])
		return string(b)
	})
	number := map[string]string{"http": "80", "https": "443"}[scheme]
	if p := port.FindStringSubmatch(host); p != nil {
		host = strings.TrimSuffix(host, p[0])
		if p[1] != "" {
			number = p[1]
		}
	}
	return [3]string{scheme, host, number}
}

// FuzzParse reads an origin of a list and a URL that a request could go to. They
// are the same place if they lead there by another reading, and only then; an
// origin that is listed is one that a URL can have, and nothing more than it.
func FuzzParse(f *testing.F) {
	f.Add("https://api.example.com", "https://api.example.com:443/path")
	f.Add("https://api.example.com", "https://user:443@API.example.com?q@x")
	f.Add("http://[::1]:80", "HTTP://[::1]:/")
	f.Add("https://api.example.com/path", "https://api.example.com#@evil.test")
	f.Fuzz(func(t *testing.T, listed, requested string) {
		got, ok := origin.Parse(listed)
		if canonical.MatchString(listed) && !ok {
			t.Fatalf("Parse(%q) fails", listed)
		}
		if !ok {
			if got != (origin.Origin{}) {
				t.Fatalf("Parse(%q) fails and returns %v", listed, got)
			}
			return
		}
		own, err := url.Parse(listed)
		if err != nil || own.User != nil || strings.Trim(own.Path, "/") != "" || own.RawQuery != "" || own.Fragment != "" || origin.Of(own) != got {
			t.Fatalf("Parse(%q) is %v; as a URL it is %#v, %v", listed, got, own, err)
		}
		if again, ok := origin.Parse(got.Scheme + "://" + got.Host); !ok || again != got {
			t.Fatalf("Parse(%q) is %v, and read again %v, %t", listed, got, again, ok)
		}
		u, err := url.Parse(requested)
		if err != nil || u.Host == "" {
			return
		}
		same, want := origin.Of(u) == got, place(requested) == place(listed)
		if same && !want || want && !same && canonical.MatchString(listed) {
			t.Fatalf("%q and %q have the same origin: %t; they lead to %q and %q", listed, requested, same, place(listed), place(requested))
		}
		if same && dialled(u) != dialled(own) {
			t.Fatalf("%q and %q have the same origin; net/http dials %q and %q", listed, requested, dialled(own), dialled(u))
		}
	})
}
