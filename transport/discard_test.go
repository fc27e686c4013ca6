package transport_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

// odd are bodies of refusals that misbehave, until the request is given up.
var odd = map[string]func(w io.Writer, flush func() error, gone <-chan struct{}){
	"never begins": func(_ io.Writer, _ func() error, gone <-chan struct{}) { <-gone },
	"begins and stops": func(w io.Writer, flush func() error, gone <-chan struct{}) {
		io.WriteString(w, "refused")
		flush()
		<-gone
	},
	"drips": func(w io.Writer, flush func() error, gone <-chan struct{}) {
		for {
			io.WriteString(w, ".")
			flush()
			select {
			case <-gone:
				return
			case <-time.After(time.Millisecond):
			}
		}
	},
	"never ends": func(w io.Writer, flush func() error, _ <-chan struct{}) {
		for flush() == nil {
			io.WriteString(w, strings.Repeat("x", 32*kib))
		}
	},
}

// refuseOddly refuses "old" with a body that misbehaves, and counts the handlers that run.
func refuseOddly(how string, compressed bool, running *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer old" {
			return
		}
		running.Add(1)
		defer running.Add(-1)
		out, flush := io.Writer(w), http.NewResponseController(w).Flush
		if compressed {
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			out, flush = zip, func() error { zip.Flush(); return http.NewResponseController(w).Flush() }
		}
		w.WriteHeader(http.StatusUnauthorized)
		http.NewResponseController(w).Flush()
		odd[how](out, flush, r.Context().Done())
	}
}

// The server notices that its answer is not read any more: nothing is left open,
// though no context ends and no server hangs up.
func TestNoRefusalStaysOpenWhateverItsBodyDoes(t *testing.T) {
	for _, protocol := range protocols {
		for how := range odd {
			for _, compressed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, gzip %t", protocol, how, compressed), func(t *testing.T) {
					t.Parallel()
					var running atomic.Int32
					url, base := serveOver(t, protocol, refuseOddly(how, compressed, &running))
					base.MaxConnsPerHost = 20
					auth := &transport.Auth{Source: oldThenNew, Base: base}
					var callers sync.WaitGroup
					for range 10 {
						callers.Go(func() {
							for range 7 {
								getsStatus(t, auth, postBody(t, url, nil), 200)
							}
						})
					}
					callers.Wait()
					for end := time.Now().Add(10 * time.Second); running.Load() > 0 && time.Now().Before(end); {
						<-time.After(time.Millisecond)
					}
					if n := running.Load(); n > 0 {
						t.Errorf("%d of 70 refusals are still open", n)
					}
				})
			}
		}
	}
}

// A lasting refusal has a body of size bytes, begin and then dots, that does not end.
type lastingRefusal struct {
	contentType, begin string
	size               int
}

// serve refuses "old" over a connection without buffers. It tells how much of the
// body was read, and how long after the request the connection was closed.
func (r lastingRefusal) serve(c net.Conn, end func(read int, closed time.Duration)) {
	defer c.Close()
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil || req.Header.Get("Authorization") != "Bearer old" {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		in.ReadByte()
		return
	}
	start, read := time.Now(), 0
	_, err = fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", r.contentType)
	for part := r.begin; err == nil && read < r.size; part = strings.Repeat(".", kib) {
		_, err = fmt.Fprintf(c, "%x\r\n%s\r\n", len(part), part)
		read += len(part)
	}
	in.ReadByte()
	end(read, time.Since(start))
}

func TestARefusalIsReadUpTo64KiBOr50ms(t *testing.T) {
	for name, c := range map[string]struct {
		lastingRefusal
		closed time.Duration
	}{
		"long":                        {lastingRefusal{"text/plain", "refused", 200 * kib}, 0},
		"stops":                       {lastingRefusal{"text/plain", "refused", 7}, 50 * time.Millisecond},
		"stops in JSON, waited for":   {lastingRefusal{"application/json", `{"error":`, 9}, 100 * time.Millisecond},
		"stops after JSON is decided": {lastingRefusal{"application/json", `{"error":"x"}`, 13}, 50 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			var ends atomic.Int32
			base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go c.serve(server, func(read int, closed time.Duration) {
					if ends.Add(1); read > 72*kib || closed != c.closed {
						t.Errorf("%s: got %d bytes read, and the connection closed after %v, want at most 72 KiB and %v", name, read, closed, c.closed)
					}
				})
				return client, nil
			}}
			auth := &transport.Auth{Source: oldThenNew, Base: base, Refused: func(resp *http.Response) bool {
				return transport.HasJSON(resp, "error", "x") || transport.Unauthorized(resp)
			}}
			getsStatus(t, auth, postBody(t, "http://localhost", nil), 200)
			base.CloseIdleConnections()
			time.Sleep(time.Second)
			if got := ends.Load(); got != 1 {
				t.Errorf("%s: %d connections of refusals were closed, want 1", name, got)
			}
		})
	}
}

// A hasty server refuses "old" as soon as it has the header, and is done with the
// connection: what proxies do that leave the body unread.
type hasty struct {
	refusal string
	hard    bool // it closes at once, else a little later

}

func (h *hasty) listen(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go h.serve(c)
		}
	}()
	return "http://" + l.Addr().String()
}

func (h *hasty) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 16*kib)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Authorization") == "Bearer old" {
			io.WriteString(c, h.refusal)
			if !h.hard {
				<-time.After(5 * time.Millisecond)
				c.(*net.TCPConn).CloseWrite()
				c.SetReadDeadline(time.Now().Add(time.Second))
				io.Copy(io.Discard, c)
			}
			return
		}
		n, _ := io.Copy(io.Discard, req.Body)
		text := fmt.Sprint(n)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
}

var refusals = map[string]string{
	"with a body":    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\nrefused\n",
	"chunked":        "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nrefused\n\r\n0\r\n\r\n",
	"without a body": "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
}

// wantUploads sends uploads, one after the other, each with tokens of its own.
func wantUploads(t *testing.T, url string, size int64, change func(*http.Request), base func(*http.Transport) http.RoundTripper) {
	t.Helper()
	bottom := &http.Transport{}
	defer bottom.CloseIdleConnections()
	auth := &transport.Auth{Source: oldThenNew, Base: base(bottom)}
	stall := stalls(t)
	for i := range 30 {
		data, _ := noise(size)
		req := postBody(t, url, data)
		req.ContentLength = size
		change(req)
		stall()
		resp, err := auth.RoundTrip(req)
		if longest := stall(); err != nil && longest > 20*time.Millisecond {
			t.Logf("upload %d: %v; nothing ran for %v, so the refusal may not have been read in time", i, err, longest)
			continue
		}
		if err != nil {
			t.Fatalf("upload %d: %v", i, err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(text) != fmt.Sprint(size) {
			t.Fatalf("upload %d: got status %d, %q and %v, want 200 and %d", i, resp.StatusCode, text, err, size)
		}
	}
}

// stalls returns a function that tells for how long goroutines of this process did
// not run since its last call, at the longest.
func stalls(t *testing.T) func() time.Duration {
	ticks := time.NewTicker(5 * time.Millisecond)
	t.Cleanup(ticks.Stop)
	var longest atomic.Int64
	go func() {
		for last := time.Now(); t.Context().Err() == nil; {
			select {
			case <-ticks.C:
			case <-t.Context().Done():
			}
			now := time.Now()
			longest.Store(max(longest.Load(), int64(now.Sub(last))))
			last = now
		}
	}()
	return func() time.Duration { return time.Duration(longest.Swap(0)) }
}

func TestAnUploadIsSentAgainOverAnotherConnectionThanItsRefusal(t *testing.T) {
	kinds := map[string]func(*http.Request){
		"recorded": func(*http.Request) {},
		"GetBody": func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) {
				data, _ := noise(req.ContentLength)
				return io.NopCloser(data), nil
			}
		},
	}
	bases := map[string]func(*http.Transport) http.RoundTripper{
		"http.Transport":            func(base *http.Transport) http.RoundTripper { return base },
		"a layer that tells":        func(base *http.Transport) http.RoundTripper { return telling{base} },
		"a layer that closes idles": func(base *http.Transport) http.RoundTripper { return closing{base} },
	}
	for how, refusal := range refusals {
		for name, size := range map[string]int64{"closed later": 256 * kib, "closed at once": 2 * mib} {
			for kind, change := range kinds {
				for layer, base := range bases {
					t.Run(fmt.Sprintf("refused %s, %s, %s, %s", how, name, kind, layer), func(t *testing.T) {
						url := (&hasty{refusal: refusal, hard: name == "closed at once"}).listen(t)
						wantUploads(t, url, size, change, base)
					})
				}
			}
		}
	}
}

// telling and closing are layers over a Transport: one tells what is below it, one
// has its CloseIdleConnections.
type telling struct{ base http.RoundTripper }

func (l telling) RoundTrip(req *http.Request) (*http.Response, error) { return l.base.RoundTrip(req) }
func (l telling) WrappedRoundTripper() http.RoundTripper              { return l.base }

type closing struct{ base *http.Transport }

func (l closing) RoundTrip(req *http.Request) (*http.Response, error) { return l.base.RoundTrip(req) }
func (l closing) CloseIdleConnections()                               { l.base.CloseIdleConnections() }

func TestADPoPUploadIsSentAgainOverAnotherConnectionThanItsRefusal(t *testing.T) {
	var connections sync.Map
	url, base := serveOver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		if nonce, _ := proofClaims(r)["nonce"].(string); nonce == "" {
			connections.Store(r.RemoteAddr, true)
			w.Header().Set("DPoP-Nonce", "n")
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if _, refused := connections.Load(r.RemoteAddr); refused {
			t.Errorf("the upload came again over %s, on which it was refused", r.RemoteAddr)
		}
		io.Copy(io.Discard, r.Body)
	})
	data, _ := noise(100 * kib)
	req := postBody(t, url, data)
	req.Header.Set("Authorization", "DPoP token")
	getsStatus(t, &transport.DPoP{Key: p256, Base: base}, req, 200)
}

// The connection of HTTP/2 is idle once the refused stream is closed.
func TestAnUploadOverHTTP2IsSentAgainOverAnotherConnectionThanItsRefusal(t *testing.T) {
	a := &bodyAPI{readFirst: 64 * kib}
	url, base := serveOver(t, "HTTP/2", a.ServeHTTP)
	var dialled atomic.Int32
	trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if !c.Reused {
			dialled.Add(1)
		}
	}}
	data, sum := noise(mib)
	req := postBody(t, url, data)
	getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)), 200)
	if n := dialled.Load(); n != 2 || a.came[1].sum != sum {
		t.Errorf("got %d connections and %v, want 2 and the whole body", n, a.came)
	}
}
