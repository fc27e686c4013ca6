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
	o = normal(scheme, host)
	if !ok || scheme == "" || o.Host == "" || strings.Contains(host, "/") || strings.ContainsAny(s, "?#@*\\, \t\r\n") {
		return Origin{}, false
	}
	return o, true
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
