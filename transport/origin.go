package transport

import (
	"fmt"
	"net/http"

	"github.com/tokentripper/tokentripper/internal/origin"
)

// carries reports whether the request shall carry a token. It fails where it
// should but the token would travel unencrypted.
func (a *Auth) carries(req *http.Request) (bool, error) {
	if req.URL == nil || has(req.Header, "Authorization", "authorization") {
		return false, nil
	}
	ok, err := a.allowed(req)
	if ok && !a.AllowHTTP && !origin.Private(req.URL) {
		return false, fmt.Errorf("%s to %s is not encrypted, and Auth.AllowHTTP is not set", req.URL.Scheme, req.URL.Host)
	}
	return ok, err
}

func (a *Auth) allowed(req *http.Request) (bool, error) {
	if a.Origins == nil {
		return sameOrigin(req), nil
	}
	here, found := origin.Of(req.URL), false
	for _, s := range a.Origins {
		o, ok := origin.Parse(s)
		if !ok {
			return false, fmt.Errorf("Auth.Origins: %q is not an origin such as https://api.example.com", s)
		}
		found = found || o == here
	}
	return found, nil
}

// sameOrigin reports whether the redirects that led to req stayed at one
// origin: http.Client drops credentials on the way to another host, and a
// transport that knows each hop alone would put them back. A chain with a hop
// missing could have come from anywhere.
func sameOrigin(req *http.Request) bool {
	for hop := req; hop.Response != nil; {
		hop = hop.Response.Request
		if hop == nil || hop.URL == nil || origin.Of(hop.URL) != origin.Of(req.URL) {
			return false
		}
	}
	return true
}
