package http3

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

const wholeBody = 1 << 62 // for refusing

func TestARefusedUploadIsSentAgainWhole(t *testing.T) {
	for _, size := range []int64{0, kib, 300 * kib} {
		for _, readFirst := range []int64{0, size / 2, wholeBody} {
			for _, length := range []int64{-1, size} {
				for _, getBody := range []bool{false, true} {
					name := fmt.Sprintf("%d bytes, refused after %d, length %d, GetBody %t", size, readFirst, length, getBody)
					t.Run(name, func(t *testing.T) {
						url, base, dials := listen(t, refusing(readFirst))
						req := post(t, url, nil)
						req.Body, req.ContentLength = io.NopCloser(noise(size)), length
						if getBody {
							req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(noise(size)), nil }
						}
						gets(t, authOver(base), req, "200 "+sumOf(size))
						if n := dials.Load(); n != 1 {
							t.Errorf("got %d connections, want 1", n)
						}
					})
				}
			}
		}
	}
}

func TestALargeUploadRefusedEarlyIsSentAgainWhole(t *testing.T) {
	const size = 16 * mib
	url, base, _ := listen(t, refusing(0))
	gets(t, authOver(base), post(t, url, noise(size)), "200 "+sumOf(size))
}

func TestAnUploadPastTheBoundComesBackRefused(t *testing.T) {
	url, base, _ := listen(t, refusing(wholeBody))
	auth := authOver(base)
	auth.MaxBody = 64 * kib
	gets(t, auth, post(t, url, noise(mib)), "401 ")
	gets(t, auth, post(t, url, noise(mib)), "200 "+sumOf(mib))
}

func TestTrailersAreSentAgain(t *testing.T) {
	for _, readFirst := range []int64{0, 50 * kib, wholeBody} {
		url, base, _ := listen(t, refusing(readFirst))
		req := post(t, url, nil)
		req.Trailer = http.Header{"X-Sum": nil}
		req.Body = io.NopCloser(io.MultiReader(noise(100*kib), atEnd(func() { req.Trailer.Set("X-Sum", "sum") })))
		gets(t, authOver(base), req, "200 "+sumOf(100*kib)+"sum")
	}
}

type atEnd func()

func (f atEnd) Read([]byte) (int, error) { f(); return 0, io.EOF }

// The server has answered and stops the stream, while the client goes on sending.
func TestNoEarlyRefusalIsLost(t *testing.T) {
	url, base, dials := listen(t, refusing(1))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				gets(t, authOver(base), post(t, url, noise(300*kib)), "200 "+sumOf(300*kib))
			}
		})
	}
	all.Wait()
	if n := dials.Load(); n != 1 {
		t.Errorf("got %d connections, want 1", n)
	}
}

// The server refuses, and neither reads the upload nor stops it until it sees the end of
// the request.
func TestTheHandlerOfARefusedUploadIsToldOfTheEnd(t *testing.T) {
	url, base, dials := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer old" {
			refusing(0)(w, r)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	for range 5 { // more than a connection's window
		gets(t, authOver(base), post(t, url, noise(mib)), "200 "+sumOf(mib))
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("got %d connections, want 1", n)
	}
}

// A download is under way on the connection of an upload that is refused.
func TestARefusedUploadLeavesTheOtherStreamsAlone(t *testing.T) {
	rest := make(chan struct{})
	url, base, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			refusing(0)(w, r)
			return
		}
		http.NewResponseController(w).Flush()
		<-rest
		io.WriteString(w, "rest")
	}))
	get, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := base.RoundTrip(get)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	gets(t, authOver(base), post(t, url, noise(mib)), "200 "+sumOf(mib))
	close(rest)
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "rest" {
		t.Errorf("the download: got %q and %v, want %q", got, err, "rest")
	}
}

// http3.Transport counts a connection as idle once its requests have the headers of their
// responses. So Auth does not close idle connections over HTTP/3.
func TestCloseIdleConnectionsCutsResponsesInProgress(t *testing.T) {
	rest := make(chan struct{})
	url, base, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-rest
	}))
	defer close(rest)
	resp, err := (&transport.Auth{Source: oldThenNew(), Base: base}).RoundTrip(post(t, url, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	base.CloseIdleConnections()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("got %q as the whole response, want an error: http3.Transport now spares responses in progress", got)
	}
}

// A server that resets the stream after its answer may take the answer back. Auth
// then cannot tell that it was a refusal.
func TestARefusalWhoseStreamTheServerResetsIsCuredOrAnError(t *testing.T) {
	url, base, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer old" {
			w.WriteHeader(http.StatusUnauthorized)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		refusing(0)(w, r)
	}))
	for range 5 {
		got, err := send(authOver(base), post(t, url, noise(100*kib)))
		if err == nil && got != "200 "+sumOf(100*kib) {
			t.Errorf("got %q, want an error or the answer to the second attempt", got)
		}
	}
}
