package transport_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func TestHugeUploadRefusedEarlyIsReplayedWithASmallBound(t *testing.T) {
	for _, protocol := range protocols {
		a := &bodyAPI{readsOn: make(chan struct{})} // or a slow client sends 4 MiB before it sees the refusal
		url, base := serveOver(t, protocol, a.ServeHTTP)
		base.DialContext = dialSmall
		t.Cleanup(func() { close(a.readsOn) })
		data, sum := noise(64 * mib)
		req := postBody(t, url, data)
		req.ContentLength = 64 * mib
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
		if len(a.came) != 2 || a.came[1].sum != sum {
			t.Errorf("%s: the server got %v, want two attempts, the second with %s", protocol, a.came, sum)
		}
	}
}

// dialSmall connects with a small send buffer: on a busy machine, Linux takes more than
// 4 MiB into a loopback connection before anyone reads.
func dialSmall(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(64 * kib)
	}
	return conn, err
}

func TestBoundReachedDuringTheRefreshDoesNotShortenTheReplay(t *testing.T) {
	for _, limits := range []*transport.Auth{{MaxBody: kib}, {MaxMemory: kib}} {
		synctest.Test(t, func(t *testing.T) {
			data, sum := noise(mib)
			body := newUntil()
			var got []byte
			auth := &transport.Auth{MaxBody: limits.MaxBody, MaxMemory: limits.MaxMemory}
			auth.Base = roundTrip(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer old" {
					go io.Copy(io.Discard, req.Body)
					io.CopyN(body.w, data, 512)
					return bodyAnswer(401, http.NoBody), nil
				}
				got, _ = io.ReadAll(req.Body)
				return bodyAnswer(200, http.NoBody), nil
			})
			auth.Source = tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				if old != nil {
					go func() { io.Copy(body.w, data); body.w.Close() }()
					time.Sleep(200 * time.Millisecond)
				}
				return oldThenNew(ctx, old)
			})
			getsStatus(t, auth, postBody(t, "https://api.example", body), 200)
			if s := fmt.Sprintf("%x <nil>", sha256.Sum256(got)); s != sum {
				t.Errorf("the replay has %d bytes with sum %s, want %d with %s", len(got), s, mib, sum)
			}
		})
	}
}

func TestRefusalNearTheBoundIsReplayedWholeOrReturned(t *testing.T) {
	for _, protocol := range protocols {
		for _, readFirst := range []int64{0, 63 * kib, 64*kib - 1, 64 * kib, 64*kib + 1, 96 * kib, 128 * kib, 256 * kib} {
			a := &bodyAPI{readFirst: readFirst}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			data, sum := noise(mib)
			auth := &transport.Auth{Source: oldThenNew, Base: base, MaxBody: 128 * kib}
			resp, err := auth.RoundTrip(postBody(t, url, io.MultiReader(data)))
			if err != nil {
				t.Fatalf("%s, refused after %d: got error %v", protocol, readFirst, err)
			}
			resp.Body.Close()
			whole := resp.StatusCode == 200 && len(a.came) == 2 && a.came[1].sum == sum
			if !whole && (resp.StatusCode != 401 || len(a.came) != 1) {
				t.Errorf("%s, refused after %d: got status %d and %v, want all of %s, or 401", protocol, readFirst, resp.StatusCode, a.came, sum)
			}
			if readFirst > 128*kib && whole {
				t.Errorf("%s, refused after %d: replayed, want 401 as the bound was crossed", protocol, readFirst)
			}
		}
	}
}

func TestUploadPastABoundGoesThroughAndItsRefusalComesUntouched(t *testing.T) {
	for _, protocol := range protocols {
		for _, limits := range []*transport.Auth{{MaxBody: 64 * kib}, {MaxMemory: 64 * kib}, {MaxBody: -1}} {
			a := &bodyAPI{readFirst: wholeBody}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			auth := &transport.Auth{Source: bodyLogin(), Base: base, MaxBody: limits.MaxBody, MaxMemory: limits.MaxMemory}
			for _, want := range []struct {
				status int
				text   string
			}{{401, "refused"}, {200, ""}} {
				data, _ := noise(mib)
				if got := getsStatus(t, auth, postBody(t, url, io.MultiReader(data)), want.status); got != want.text {
					t.Errorf("%s: got body %q, want %q", protocol, got, want.text)
				}
			}
			_, sum := noise(mib)
			if len(a.came) != 2 || a.came[1].sum != sum {
				t.Errorf("%s: the server got %v, want one attempt for each request, the second with %s", protocol, a.came, sum)
			}
		}
	}
}

func TestUploadGoesThroughWhileAnotherHasTheWholeBudget(t *testing.T) {
	auth := &transport.Auth{Source: oldThenNew, MaxMemory: mib}
	stream := func() *http.Request {
		data, _ := noise(mib)
		return postBody(t, "https://api.example", io.MultiReader(data))
	}
	depth := 0
	auth.Base = roundTrip(func(req *http.Request) (*http.Response, error) {
		n, err := io.Copy(io.Discard, req.Body)
		if n != mib || err != nil {
			t.Errorf("the base read %d bytes and %v, want %d", n, err, mib)
		}
		if depth++; depth == 1 { // this one has the budget now
			if got := getsStatus(t, auth, stream(), 401); got != "untouched" {
				t.Errorf("another upload got %q, want %q", got, "untouched")
			}
		}
		if req.Header.Get("Authorization") == "Bearer old" {
			return bodyAnswer(401, strings.NewReader("untouched")), nil
		}
		return bodyAnswer(200, http.NoBody), nil
	})
	getsStatus(t, auth, stream(), 200)
}
