// Package proxies sends uploads that are refused through real proxies and
// servers, started on loopback for the time of a test. It has nothing but tests.
//
// Each upload goes through a transport.Auth whose first token is stale. The
// server refuses it before the body, in its middle or after it; then the upload
// must succeed with the second token, and arrive whole. The bodies have 64 KiB,
// 1 MiB and 8 MiB, are of known length or chunked, recorded or made again by
// GetBody, and travel over HTTP/1.1, in clear and over TLS, and over HTTP/2.
//
//	go test -v .
//	go test -v -timeout 1h . -servers all -uploads 2000
//
// A server whose program is not installed is skipped. With CI set, a missing
// nginx, HAProxy or Squid is a failure. The Debian packages are nginx, haproxy,
// squid, lighttpd, apache2, caddy, varnish, nghttp2-proxy, h2o, nodejs, python3,
// default-jdk-headless and python3-hypercorn.
//
// The last lines are the rows of the table in docs/proxies.md. A row that the
// page does not have fails the test; the versions may differ.
package proxies
