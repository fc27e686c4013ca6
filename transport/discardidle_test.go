package transport_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

func TestARefusalOfASmallRequestClosesNoIdleConnection(t *testing.T) {
	closed := 0
	auth := &transport.Auth{Source: oldThenNew, Base: counting{&closed}}
	for _, size := range []int64{1, 8 * kib} {
		for _, again := range []bool{false, true} {
			data, _ := noise(size)
			req := postBody(t, "https://api.example", data)
			if req.ContentLength = size; again {
				req.GetBody = func() (io.ReadCloser, error) {
					return io.NopCloser(strings.NewReader(strings.Repeat("x", int(size)))), nil
				}
			}
			getsStatus(t, auth, req, 200)
		}
	}
	if closed != 0 {
		t.Errorf("the idle connections were closed %d times, want never", closed)
	}
}

// counting reads a body and refuses "old"; it counts its CloseIdleConnections.
type counting struct{ closed *int }

func (c counting) RoundTrip(req *http.Request) (*http.Response, error) {
	io.Copy(io.Discard, req.Body)
	req.Body.Close()
	return bodyAnswer(map[string]int{"Bearer old": 401, "Bearer new": 200}[req.Header.Get("Authorization")], http.NoBody), nil
}

func (c counting) CloseIdleConnections() { *c.closed++ }

// peeked reads JSON in the response's body, and looks only at the status.
func peeked(resp *http.Response) bool {
	transport.PeekJSON(resp)
	return transport.Unauthorized(resp)
}

var ofJSON = http.Header{"Content-Type": {"application/json"}}

// The connection of a refused upload is not used again: if it may be idle, all that
// are idle are closed. A stream of HTTP/2 ends a little later than its response.
func TestARefusedUploadClosesIdleConnectionsIfItsOwnMayBeOne(t *testing.T) {
	for name, c := range map[string]struct {
		major, length int
		body          io.ReadCloser
		closes        int32
		takes         time.Duration
		header        http.Header
	}{
		"HTTP/1.1, a body":            {1, -1, io.NopCloser(strings.NewReader("x")), 0, 0, nil},
		"HTTP/1.1, a body of 0 bytes": {1, 0, io.NopCloser(strings.NewReader("")), 1, 0, nil},
		"HTTP/1.1, no body":           {1, -1, http.NoBody, 1, 0, nil},
		"HTTP/1.1, a nil body":        {1, 0, nil, 1, 0, nil},
		"HTTP/2, a body":              {2, -1, io.NopCloser(strings.NewReader("x")), 1, 0, nil},
		"HTTP/2, no body":             {2, 0, http.NoBody, 1, time.Millisecond, nil},
		"HTTP/2, Close hangs":         {2, -1, hangingClose{}, 0, 50 * time.Millisecond, nil},
		"HTTP/1.1, read to its end":   {1, -1, io.NopCloser(strings.NewReader("{")), 1, 0, ofJSON},
		"HTTP/1.1, not to its end":    {1, -1, io.NopCloser(strings.NewReader("{}")), 0, 0, ofJSON},
		"HTTP/2, not to its end":      {2, -1, io.NopCloser(strings.NewReader("{}")), 1, 0, ofJSON},
		"HTTP/3, a body":              {3, -1, io.NopCloser(strings.NewReader("x")), 0, 0, nil},
		"HTTP/3, no body":             {3, 0, http.NoBody, 0, 0, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := &closer{RoundTripper: roundTrip(func(req *http.Request) (*http.Response, error) {
				io.Copy(io.Discard, req.Body)
				req.Body.Close()
				if req.Header.Get("Authorization") == "Bearer new" {
					return bodyAnswer(200, http.NoBody), nil
				}
				return &http.Response{StatusCode: 401, ProtoMajor: c.major, ContentLength: int64(c.length), Body: c.body, Header: c.header}, nil
			})}
			auth := &transport.Auth{Source: oldThenNew, Base: base, Refused: peeked}
			start := time.Now()
			getsStatus(t, auth, postBody(t, "https://api.example", strings.NewReader(strings.Repeat("x", 64*kib))), 200)
			if took, told := time.Since(start), base.told.Load(); told != c.closes || took != c.takes {
				t.Errorf("%s: closed idle connections %d times after %v, want %d after %v", name, told, took, c.closes, c.takes)
			}
			time.Sleep(time.Minute) // Close returns
		})
	}
}

// On a busy machine it may take long until the idle connections are closed.
func TestTheSecondAttemptWaitsUntilIdleConnectionsAreClosed(t *testing.T) {
	for slow, want := range map[time.Duration]time.Duration{300 * time.Millisecond: 300 * time.Millisecond, time.Minute: time.Second} {
		for _, body := range []io.ReadCloser{http.NoBody, io.NopCloser(strings.NewReader("{"))} {
			synctest.Test(t, func(t *testing.T) {
				base := slowToCloseIdle{counting{new(int)}, slow, body}
				start := time.Now()
				data, _ := noise(64 * kib)
				getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base, Refused: peeked}, postBody(t, "https://api.example", data), 200)
				if took := time.Since(start); took != want {
					t.Errorf("%v until they are closed: waited %v, want %v", slow, took, want)
				}
				time.Sleep(time.Minute)
			})
		}
	}
}

type slowToCloseIdle struct {
	counting
	takes time.Duration
	body  io.ReadCloser // of the refusal
}

func (s slowToCloseIdle) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.counting.RoundTrip(req)
	if resp.Header = ofJSON; resp.StatusCode == 401 {
		resp.Body = s.body
	}
	return resp, err
}

func (s slowToCloseIdle) CloseIdleConnections() { time.Sleep(s.takes) }

// With HTTP/2, Close waits for a Read of the caller's body, even at the end of the
// response.
func TestASecondAttemptIsNotHeldUpByAReadOfTheCallersBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go w.Write(make([]byte, 16*kib)) // and nothing for a minute
		time.AfterFunc(time.Minute, func() { w.Close() })
		start := time.Now()
		var took time.Duration
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer new" {
				took = time.Since(start)
				io.Copy(io.Discard, req.Body)
				return bodyAnswer(200, http.NoBody), nil
			}
			io.ReadFull(req.Body, make([]byte, 16*kib))
			sent := make(chan struct{})
			go func() {
				req.Body.Read(make([]byte, 1))
				close(sent)
			}()
			synctest.Wait()
			return &http.Response{StatusCode: 401, ProtoMajor: 2, ContentLength: -1, Body: closesAfter{strings.NewReader("{"), sent},
				Header: ofJSON}, nil
		})
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base, Refused: peeked}, postBody(t, "https://api.example", r), 200)
		if took != 50*time.Millisecond {
			t.Errorf("the second attempt began after %v, want 50ms", took)
		}
	})
}

// A closesAfter is a body whose Close waits for an event.
type closesAfter struct {
	io.Reader
	event chan struct{}
}

func (c closesAfter) Close() error { <-c.event; return nil }

// A hangingClose is a body whose Close takes a minute.
type hangingClose struct{ io.Reader }

func (hangingClose) Close() error { time.Sleep(time.Minute); return nil }

func TestTheCloseOfAnUploadWaitsNoLongerThanForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waited := make(chan time.Duration)
		base := roundTrip(func(req *http.Request) (*http.Response, error) {
			req.Body.Read(make([]byte, 1))
			go func() {
				start := time.Now()
				req.Body.Close()
				waited <- time.Since(start)
			}()
			return bodyAnswer(200, http.NoBody), nil
		})
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, postBody(t, "https://api.example", strings.NewReader(strings.Repeat("x", 64*kib))), 200)
		if got := <-waited; got != 0 {
			t.Errorf("waited %v, want no longer than for the answer", got)
		}
	})
}
