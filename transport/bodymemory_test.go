package transport_test

import (
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// inPieces yields zeros, at most piece at a time, and then waits for the gate.
type inPieces struct {
	left, piece int
	past, gate  chan struct{}
}

func (s *inPieces) Read(p []byte) (int, error) {
	if s.left == 0 {
		close(s.past)
		<-s.gate
		return 0, io.EOF
	}
	n := min(len(p), s.piece, s.left)
	clear(p[:n])
	s.left -= n
	return n, nil
}

// heldBy returns how much memory uploads hold that wait before their end.
func heldBy(t *testing.T, rt http.RoundTripper, url string, uploads, size, piece int, length int64) int64 {
	gate := make(chan struct{})
	var done, past sync.WaitGroup
	before := heapInUse()
	for range uploads {
		body := &inPieces{size, piece, make(chan struct{}), gate}
		past.Go(func() { <-body.past })
		done.Go(func() {
			req := postBody(t, url, body)
			req.ContentLength = length
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
	}
	past.Wait()
	held := heapInUse() - before
	close(gate)
	done.Wait()
	return held
}

func TestUploadsPastEveryBoundHoldNoMoreThanMaxMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory, too")
	}
	const uploads, maxMemory = 64, 2 * mib
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, framing := range []string{"chunked", "known length"} {
			for piece, maxBody := range map[int]int64{1: 256, 700: 128 * kib, 1000: 128 * kib, 4096: 128 * kib} {
				size, length := int(maxBody+maxBody/4), int64(0)
				if framing == "known length" {
					length = int64(size)
				}
				url, base := serveOver(t, protocol, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
				base.MaxIdleConnsPerHost = uploads
				auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base, MaxBody: maxBody, MaxMemory: maxMemory}
				heldBy(t, base, url, uploads, size, piece, length) // connects
				plain := heldBy(t, base, url, uploads, size, piece, length)
				held := heldBy(t, auth, url, uploads, size, piece, length)
				if held > plain+maxMemory+mib {
					t.Errorf("%s, %s, reads of %d: %d KiB are held, %d by the base alone", protocol, framing, piece, held>>10, plain>>10)
				}
			}
		}
	}
}

// A panicking body panics in its second Read.
type panicking struct{ reads int }

func (p *panicking) Read(b []byte) (int, error) {
	if p.reads++; p.reads == 2 {
		panic("Read")
	}
	return copy(b, "x"), nil
}

func TestAReadThatPanicsHoldsNobodyUp(t *testing.T) {
	auth := &transport.Auth{Source: oldThenNew, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		func() { // as a layer does that goes on after a panic
			defer func() { recover() }()
			io.Copy(io.Discard, req.Body)
		}()
		req.Body.Close()
		return bodyAnswer(401, http.NoBody), nil
	})}
	getsStatus(t, auth, postBody(t, "https://api.example", &panicking{}), 401)
}

// A slowToClose is a body whose Close waits for the gate.
type slowToClose struct {
	io.Reader
	gate chan struct{}
}

func (s *slowToClose) Close() error { <-s.gate; return nil }

func TestRoundTripDoesNotWaitForTheCloseOfABodyThatHasEnded(t *testing.T) {
	url, base := serveOver(t, "HTTP/2", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	data, _ := noise(kib)
	body := &slowToClose{data, make(chan struct{})}
	getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, postBody(t, url, body), 200) // hangs if it waits
	close(body.gate)
}

// A base must close every body. The memory of one that does not, after a second attempt, is free once nobody has it.
func TestABodyThatTheBaseLeavesOpenTakesNoMemoryForGood(t *testing.T) {
	auth := &transport.Auth{Source: oldThenNew, MaxMemory: 64 * kib, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") == "Bearer new" {
			return bodyAnswer(200, http.NoBody), nil
		}
		io.Copy(io.Discard, req.Body)
		req.Body.Close()
		return bodyAnswer(401, http.NoBody), nil
	})}
	replayed := func() bool {
		data, _ := noise(64 * kib)
		resp, err := auth.RoundTrip(postBody(t, "https://api.example", data))
		return err == nil && resp.StatusCode == 200
	}
	if !replayed() {
		t.Fatal("the first upload was not sent again")
	}
	for range 1000 {
		runtime.GC()
		if replayed() {
			return
		}
	}
	t.Error("the memory is still taken")
}
