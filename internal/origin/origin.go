// Package origin compares the origins that a token may go to (RFC 6454 section 4).
package origin

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// An Origin is a scheme, and a host with its port. The default port and the case of
// ASCII letters are normalised.
type Origin struct{ Scheme, Host string }

// Of returns the origin of u.
func Of(u *url.URL) Origin { return normal(u.Scheme, u.Host) }

// Parse reads an origin such as https://api.example.com:8443. It returns ok false if s
// has more or less than a scheme and a host.
func Parse(s string) (o Origin, ok bool) {
	scheme, host, ok := strings.Cut(s, "://")
	host = strings.TrimSuffix(host, "/")
	if !ok || !isScheme(scheme) || !isHost(host) {
		return Origin{}, false
	}
	return normal(scheme, host), true
}

// isScheme is stricter and cheaper than url.Parse, and so is isHost. url.Parse leaves
// some checks to the resolver of the name.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsAny(s[:1], "0123456789+-.") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("0123456789+-.", r)
	})
}

// isHost reports whether s is a name or an address, with or without a port.
func isHost(s string) bool {
	s, port := cutPort(s)
	if strings.Trim(port, ":0123456789") != "" {
		return false
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

// cutPort splits a host before the colon of its port, if it has one.
func cutPort(host string) (name, port string) {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i], host[i:]
	}
	return host, ""
}

// normal leaves a host with two ports as it is: net/http takes the first one for a part
// of the name.
func normal(scheme, host string) Origin {
	scheme, host = lower(scheme), lower(host)
	name, port := cutPort(host)
	_, another := cutPort(name)
	if another == "" && (port == ":" || port == ":443" && scheme == "https" || port == ":80" && scheme == "http") {
		host = name
	}
	return Origin{scheme, host}
}

// lower folds the case of ASCII letters only. Unicode folding would merge two different
// names: strings.ToLower turns İ into i, but net/http dials another host for the name
// with İ.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return lowered([]byte(s))
		}
	}
	return s
}

func lowered(s []byte) string {
	for i, c := range s {
		if 'A' <= c && c <= 'Z' {
			s[i] = c + ('a' - 'A')
		}
	}
	return string(s)
}

// Private reports whether no other party can read what is sent to u: it is encrypted
// or does not leave the machine.
func Private(u *url.URL) bool {
	if lower(u.Scheme) == "https" {
		return true
	}
	host := u.Hostname()
	if lower(host) == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// CheckPrivate returns an error if others can read on the way what base sends for req.
// An unencrypted request to this machine leaves it if an [http.Transport] sends it
// through a proxy on another machine. CheckPrivate finds such a proxy in base, and
// below layers with a WrappedRoundTripper method.
func CheckPrivate(base http.RoundTripper, req *http.Request) error {
	switch {
	case !Private(req.URL):
		return fmt.Errorf("%s to %s is not encrypted", req.URL.Scheme, req.URL.Host)
	case lower(req.URL.Scheme) != "https" && leaves(base, req):
		return fmt.Errorf("%s to %s goes unencrypted to a proxy on another machine", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// leaves reports whether base sends req through a proxy on another machine. Nil stands
// for http.DefaultTransport.
func leaves(base http.RoundTripper, req *http.Request) bool {
	t, ok := bottom(cmp.Or(base, http.DefaultTransport)).(*http.Transport)
	if !ok || t.Proxy == nil {
		return false
	}
	proxy, err := t.Proxy(req)
	return err == nil && proxy != nil && !Private(&url.URL{Host: proxy.Host})
}

// bottom returns the transport below all layers with a WrappedRoundTripper method.
func bottom(base http.RoundTripper) http.RoundTripper {
	for range 100 { // wrappers may form a cycle
		w, ok := base.(interface{ WrappedRoundTripper() http.RoundTripper })
		if !ok {
			return base
		}
		base = w.WrappedRoundTripper()
	}
	return base
}
