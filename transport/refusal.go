package transport

import (
	"net/http"
	"strings"
)

// Unauthorized reports whether the response refuses the token: its status is 401, and
// no Bearer or DPoP challenge carries an error that another token cannot cure. These
// errors are insufficient_scope, invalid_request (RFC 6750 section 3.1),
// insufficient_user_authentication (RFC 9470), insufficient_claims (a claims challenge
// of Microsoft) and use_dpop_nonce (RFC 9449 section 9). [Auth] uses Unauthorized by
// default.
func Unauthorized(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && curable(resp)
}

// UnauthorizedOrForbidden is [Unauthorized] for servers that answer an expired token
// with 403, too. A 403 with another meaning occasionally costs a refresh, see [Auth].
func UnauthorizedOrForbidden(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) && curable(resp)
}

func curable(resp *http.Response) bool {
	for _, c := range Challenges(resp) {
		if !strings.EqualFold(c.Scheme, "Bearer") && !strings.EqualFold(c.Scheme, "DPoP") {
			continue
		}
		switch c.Params["error"] {
		case "insufficient_scope", "insufficient_user_authentication", "insufficient_claims", "invalid_request", useNonce:
			return false
		}
	}
	return true
}
