package transport_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/transport"
)

// direct is a body that keeps where it was read to.
type direct struct{ into []byte }

func (d *direct) Read(p []byte) (int, error) { d.into = p; return len(p), io.EOF }

func (d *direct) Close() error { return nil }

func TestBodyWithGetBodyIsNotCopied(t *testing.T) {
	for _, size := range []int64{1, 0, mib} { // zero: unknown
		bodies := []*direct{{}, {}}
		req := postBody(t, "https://api.example", nil)
		req.ContentLength = size
		req.Body, req.GetBody = bodies[0], func() (io.ReadCloser, error) { return bodies[1], nil }
		sent := 0
		auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			buf := make([]byte, 10)
			req.Body.Read(buf)
			if got := bodies[sent].into; len(got) != len(buf) || &got[0] != &buf[0] {
				t.Errorf("%d bytes, attempt %d: the base's Read did not go to the caller's body", size, sent+1)
			}
			if small := size == 1; small != (req.Body == bodies[sent]) {
				t.Errorf("%d bytes, attempt %d: the base got a %T", size, sent+1, req.Body)
			}
			sent++
			return bodyAnswer(map[string]int{"Bearer old": 401, "Bearer new": 200}[req.Header.Get("Authorization")], http.NoBody), nil
		})}
		getsStatus(t, auth, req, 200)
	}
}

func TestRefusalComesAsItIsWhenGetBodyFails(t *testing.T) {
	req := postBody(t, "https://api.example", strings.NewReader("body"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("no other") }
	auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(*http.Request) (*http.Response, error) {
		return bodyAnswer(401, strings.NewReader("untouched")), nil
	})}
	if got := getsStatus(t, auth, req, 401); got != "untouched" {
		t.Errorf("got %q, want the refusal's own words", got)
	}
}

func TestReplayOfABodyWithGetBodySendsTheSameBytes(t *testing.T) {
	for _, protocol := range protocols {
		for _, readFirst := range []int64{0, mib / 2, wholeBody} {
			t.Run(fmt.Sprintf("%s, refused after %d", protocol, readFirst), func(t *testing.T) {
				sameBytes(t, protocol, mib, &bodyAPI{readFirst: readFirst}, func(req *http.Request, _ *http.Transport) {
					req.ContentLength = mib
					req.GetBody = func() (io.ReadCloser, error) {
						data, _ := noise(mib)
						return io.NopCloser(data), nil
					}
				})
			})
		}
	}
}
