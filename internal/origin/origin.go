// Package origin compares the places that a token may go to (RFC 6454 section 4).
package origin

import (
	"net/netip"
	"net/url"
	"strings"
)

// An Origin is a scheme and a host with its port, case and default port normalised.
type Origin struct{ Scheme, Host string }

// Of returns the origin of u.
func Of(u *url.URL) Origin { return normal(u.Scheme, u.Host) }

// Parse reads an origin such as https://api.example.com:8443. ok is false for
// anything that has more, or less, than a scheme and a host.
func Parse(s string) (o Origin, ok bool) {
	scheme, host, ok := strings.Cut(s, "://")
	host = strings.TrimSuffix(host, "/")
	if !ok || !isScheme(scheme) || !isHost(host) {
		return Origin{}, false
	}
	return normal(scheme, host), true
}

// isScheme and isHost are stricter than url.Parse, which leaves some of this to
// whoever resolves the name, and cheaper.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsAny(s[:1], "0123456789+-.") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("0123456789+-.", r)
	})
}

// isHost reports whether s is a name, or an address, perhaps with a port.
func isHost(s string) bool {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		if strings.Trim(s[i+1:], "0123456789") != "" {
			return false
		}
		s = s[:i]
	}
	if in, ok := strings.CutPrefix(s, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		addr, err := netip.ParseAddr(in)
		return ok && err == nil && addr.Is6() && addr.Zone() == ""
	}
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("\"#%*,/:<>?@[\\]^`{|}", r)
	})
}

func normal(scheme, host string) Origin {
	scheme, host = strings.ToLower(scheme), strings.ToLower(host)
	host = strings.TrimSuffix(host, ":")
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return Origin{scheme, host}
}

// Private reports whether what is sent to u cannot be read on the way: it is
// encrypted, or does not leave the machine.
func Private(u *url.URL) bool {
	if strings.EqualFold(u.Scheme, "https") {
		return true
	}
	host := u.Hostname()
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
