// Package transport has the [Auth] transport, which keeps an http.Client authenticated.
package transport
