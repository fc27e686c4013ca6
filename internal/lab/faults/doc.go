// Package faults proves that the library does the right thing when the network
// and the servers do not. Everything goes over real sockets on loopback:
// connections that are reset or stall, servers that stop reading, answer too
// soon, too much or too little, HTTP/2 frames that net/http never sends, and
// token endpoints that fail in every way. It has nothing but tests.
//
// In the end a soak sends requests of all kinds with many clients while faults
// come and go at random. It runs for 5 s, or for as long as is said:
//
//	go test -run Soak -soak 10m -timeout 15m .
//
// It prints a seed, which -seed takes, and one line of figures.
//
// The module is one of its own because golang.org/x/net/http2, which frames the
// HTTP/2 of the servers here, is no dependency of the library.
package faults
