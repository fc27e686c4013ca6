#!/usr/bin/env bash
# Software: net/http of Go, the client (seen with go1.26).
#
# Behaviour: a server answers 401 with "Connection: close" as soon as it has the
# headers, and closes. Transport.RoundTrip of a large upload then often returns
# the error of the write instead of the 401, though the 401 was sent before the
# connection was closed: a client that reads after the failed write gets it.
# (golang/go#51109)
#
# Seen:
#   net/http: 86 of 200 uploads got the 401, 114 an error, such as: … write: connection reset by peer
#   read after the failed write: 200 of 200 uploads got the 401
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
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go refuse(conn)
		}
	}()
	const n = 200
	got, lost, example := 0, 0, error(nil)
	for range n {
		req, _ := http.NewRequest("POST", "http://"+l.Addr().String(), struct{ io.Reader }{bytes.NewReader(make([]byte, 8<<20))})
		req.ContentLength = 8 << 20
		resp, err := new(http.Transport).RoundTrip(req)
		switch {
		case err != nil:
			lost, example = lost+1, err
		case resp.StatusCode == 401:
			got++
			resp.Body.Close()
		}
	}
	read := 0
	for range n {
		if refused(l.Addr().String()) {
			read++
		}
	}
	fmt.Printf("net/http: %d of %d uploads got the 401, %d an error, such as: %v\n", got, n, lost, example)
	fmt.Printf("read after the failed write: %d of %d uploads got the 401\n", read, n)
	if lost == 0 || read != n {
		os.Exit(1)
	}
}

// refused writes an upload until that fails, then reads.
func refused(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 8<<20)
	conn.Write(make([]byte, 8<<20))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	return err == nil && resp.StatusCode == 401
}

func refuse(conn net.Conn) {
	defer conn.Close()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	}
}
GO
cd "$dir"
go version
go run main.go
