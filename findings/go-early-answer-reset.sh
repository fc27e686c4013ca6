#!/usr/bin/env bash
# Software: net/http of Go, the server (seen with go1.26).
#
# Behaviour: a handler answers 401 without reading the body of a large upload.
# The server lingers, so that the client can read the answer before the
# connection is reset: it shuts its side, and closes 500 ms later. It does not
# linger if the request says "Connection: close": then it resets at once, and a
# client that is still writing may lose the answer. nginx sends that header to
# its upstreams by default; it answers 502 then.
#
# Seen:
#   keep-alive: the rest of the body, 200 ms after the answer: <nil>
#   close: the rest of the body, 200 ms after the answer: … write: connection reset by peer
#
# Exits with 1 if that changes.
set -euo pipefail
export GOTOOLCHAIN=go1.26.8
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/main.go" <<'GO'
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"time"
)

func main() {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }))
	alive, closing := upload(s.Listener.Addr().String(), "keep-alive"), upload(s.Listener.Addr().String(), "close")
	fmt.Println("keep-alive: the rest of the body, 200 ms after the answer:", alive)
	fmt.Println("close: the rest of the body, 200 ms after the answer:", closing)
	if alive != nil || closing == nil {
		os.Exit(1)
	}
}

// upload sends the header and a part of the body, reads the answer, and sends on.
func upload(addr, connection string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n", connection, 8<<20)
	conn.Write(make([]byte, 64<<10))
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		panic(err)
	}
	for range 2 {
		time.Sleep(100 * time.Millisecond)
		if _, err := conn.Write(make([]byte, 1<<10)); err != nil {
			return err
		}
	}
	return nil
}
GO
cd "$dir"
go version
go run main.go
