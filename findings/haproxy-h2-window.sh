#!/usr/bin/env bash
# Software: HAProxy 2.6.12 (Debian 12, haproxy=2.6.12-1+deb12u4), HTTP/2.
#
# Behaviour: a POST is answered by "http-request deny deny_status 401" while its
# body is on its way. HAProxy discards the DATA that comes after its answer, but
# does not give it back to the flow-control window of the connection, where it
# counts (RFC 9113 sections 5.1 and 6.9). After some refused uploads the window is used
# up, and no other upload can be sent down that connection.
#
# Seen:
#   1 refused, 49151 bytes are left in the window of the connection
#   2 refused, 32767 bytes are left in the window of the connection
#   3 refused, 16383 bytes are left in the window of the connection
#   no other 16 KiB may be sent
#
# Exits with 1 if that changes.
set -euo pipefail
export GOTOOLCHAIN=go1.26.8
dir=$(mktemp -d)
haproxy=
trap '[[ -z $haproxy ]] || kill "$haproxy"; rm -rf "$dir"' EXIT
cd "$dir"
apt-get -o APT::Sandbox::User=root download -q haproxy=2.6.12-1+deb12u4 liblua5.3-0 >/dev/null
for package in *.deb; do dpkg -x "$package" .; done
export LD_LIBRARY_PATH=$dir/usr/lib/$(uname -m)-linux-gnu

mkdir client
cat >client/main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func main() {
	conn, err := net.Dial("unix", "haproxy.sock")
	must(err)
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, http2.ClientPreface)
	f := http2.NewFramer(conn, conn)
	must(f.WriteSettings())
	const size = 16 << 10
	window, refused := 65535, 0
	for stream := uint32(1); window >= size; stream += 2 {
		must(f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: header(), EndHeaders: true}))
		time.Sleep(100 * time.Millisecond) // the answer is under way, as with a client that is far
		must(f.WriteData(stream, false, make([]byte, size)))
		window += sync(f, &refused) - size
		fmt.Printf("%d refused, %d bytes are left in the window of the connection\n", refused, window)
		if refused == 20 {
			os.Exit(1)
		}
	}
	fmt.Println("no other 16 KiB may be sent")
}

func header() []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}, {"content-length", "1048576"}} {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return b.Bytes()
}

// sync waits for all that the server has to say, and returns what it gives back.
func sync(f *http2.Framer, refused *int) (given int) {
	must(f.WritePing(false, [8]byte{1}))
	for {
		frame, err := f.ReadFrame()
		must(err)
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				must(f.WriteSettingsAck())
			}
		case *http2.WindowUpdateFrame:
			if frame.StreamID == 0 {
				given += int(frame.Increment)
			}
		case *http2.HeadersFrame:
			*refused++
		case *http2.PingFrame:
			if frame.IsAck() {
				return given
			}
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
GO
(
	cd client
	go mod init client
	go get golang.org/x/net/http2@v0.62.0
	go build -o ../upload .
) >log 2>&1 || { cat log; exit 1; }

cat >haproxy.cfg <<'CFG'
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
frontend deny
	bind unix@haproxy.sock proto h2
	http-request deny deny_status 401
CFG
usr/sbin/haproxy -v | sed -n 1p
usr/sbin/haproxy -db -f haproxy.cfg &
haproxy=$!
for ((i = 0; i < 50; i++)); do
	[[ ! -S haproxy.sock ]] || break
	sleep 0.1
done
./upload
