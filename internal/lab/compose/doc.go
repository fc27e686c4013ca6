// Package compose shows in which order transport.Auth works with the RoundTrippers
// of others: otelhttp, go-retryablehttp, httpcache, httputil.ReverseProxy. It has
// nothing but tests, and a module of its own, so that none of these is a dependency
// of the library.
package compose
