// Package http3 shows what transport.Auth keeps, and what it cannot keep, over the
// http3.Transport of quic-go. It has nothing but tests, and a module of its own, so that
// quic-go is no dependency of the library.
package http3
