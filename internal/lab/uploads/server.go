package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
)

// serveArg is the argument of a process that is the server.
const serveArg = "serve"

// Tokens that the senders use.
const (
	goodToken = "good"
	badToken  = "bad" // is refused after the last byte
)

// Addresses are the server's.
type addresses struct {
	Plain, Secure string
	Certificate   []byte // X.509, DER
}

// serve writes the addresses of servers to out, and ends with in.
func serve(in io.Reader, out io.Writer) {
	plain := httptest.NewServer(http.HandlerFunc(swallow))
	secure := httptest.NewUnstartedServer(http.HandlerFunc(swallow))
	secure.EnableHTTP2 = true
	for _, s := range []*httptest.Server{plain, secure} {
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
	}
	secure.StartTLS()
	json.NewEncoder(out).Encode(addresses{plain.URL, secure.URL, secure.Certificate().Raw})
	io.Copy(io.Discard, in)
}

var buffers = sync.Pool{New: func() any { return new([256 * kib]byte) }}

// swallow reads the body before it answers: no sender is ahead of the server.
func swallow(w http.ResponseWriter, r *http.Request) {
	buffer := buffers.Get().(*[256 * kib]byte)
	defer buffers.Put(buffer)
	for {
		if _, err := r.Body.Read(buffer[:]); err == io.EOF {
			break
		} else if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		w.WriteHeader(http.StatusUnauthorized)
	}
}
