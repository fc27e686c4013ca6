package transport

import (
	"fmt"
	"net/http"

	"github.com/tokentripper/tokentripper/internal/origin"
)

// carries reports whether the request must carry a token. It returns an error if the
// request must, but would travel unencrypted.
func (a *Auth) carries(req *http.Request) (bool, error) {
	if req.URL == nil || has(req.Header, "Authorization", "authorization") {
		return false, nil
	}
	ok, err := a.allowed(req)
	if !ok || a.AllowHTTP {
		return ok, err
	}
	if err := origin.CheckPrivate(a.base(), req); err != nil {
		return false, fmt.Errorf("%w, and Auth.AllowHTTP is not set", err)
	}
	return true, nil
}

func (a *Auth) allowed(req *http.Request) (bool, error) {
	if a.Origins == nil {
		return sameOrigin(req), nil
	}
	here, found := origin.Of(req.URL), false
	for i, s := range a.Origins {
		o, ok := origin.Parse(s)
		if !ok { // the error leaves out s, which may hold a password
			return false, fmt.Errorf("Auth.Origins[%d] is not an origin such as https://api.example.com", i)
		}
		found = found || o == here
	}
	return found, nil
}

// sameOrigin reports whether the redirects that led to req stayed at one origin.
// http.Client drops credentials on the way to another host; a transport that sees only
// single hops would put them back. If a hop or the beginning of the chain is missing,
// the request could have come from anywhere.
func sameOrigin(req *http.Request) bool {
	for hop, hops := req, 0; hop.Response != nil; hops++ {
		hop = hop.Response.Request
		if hop == nil || hop.URL == nil || hops == maxHops || origin.Of(hop.URL) != origin.Of(req.URL) {
			return false
		}
	}
	return true
}

// maxHops is far above the ten redirects that an http.Client follows.
const maxHops = 1000
