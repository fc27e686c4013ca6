package replay_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/replay"
)

func TestBodiesThatNeedNoRecordingAreNotTouched(t *testing.T) {
	getBody := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("again")), nil }
	stream, again := io.NopCloser(&bytes.Buffer{}), io.NopCloser(strings.NewReader("again"))
	for name, c := range map[string]struct {
		req    *http.Request
		limits replay.Limits
		hold   bool
	}{
		"nil":      {request(nil), roomy, true},
		"NoBody":   {request(http.NoBody), roomy, true},
		"GetBody":  {&http.Request{Body: again, GetBody: getBody}, roomy, true},
		"no bound": {request(stream), replay.Limits{Body: -1}, false},
		"zero":     {request(stream), replay.Limits{}, false},
	} {
		b := replay.New(c.req, c.limits, new(replay.Budget))
		want(t, name+": first body is the caller's", b.First(c.req) == c.req.Body, true)
		want(t, name+": Hold", b.Hold(c.req), c.hold)
		b.Release()
		b.Close()
		b.Done()
	}
}

func TestASecondBodyFromGetBodyGoesWithTheCallersTrailer(t *testing.T) {
	again := io.NopCloser(strings.NewReader("again"))
	req := &http.Request{Trailer: http.Header{"X-Sum": nil}}
	req.GetBody = func() (io.ReadCloser, error) { return again, nil }
	for name, c := range map[string]struct{ first, second io.ReadCloser }{
		"none":    {nil, nil},
		"NoBody":  {http.NoBody, http.NoBody},
		"GetBody": {io.NopCloser(strings.NewReader("first")), again},
	} {
		req.Body = c.first
		var b *replay.Body
		next := mustNext(t, b, req)
		want(t, name, next.Body, c.second)
		want(t, name+": Sent", next.Sent, true)
		_, ok := next.Trailer["X-Sum"]
		want(t, name+": Trailer", ok, true)
	}
}

func TestNextTellsWhenGetBodyFails(t *testing.T) {
	broken := errors.New("broken")
	req := request(io.NopCloser(strings.NewReader("first")))
	req.GetBody = func() (io.ReadCloser, error) { return nil, broken }
	var b *replay.Body
	next, err := b.Next(req)
	want(t, "error", err, broken)
	want(t, "Sent", next.Sent, false)
}

func TestSmallIsABodyThatAServerHasProbablyRead(t *testing.T) {
	for read, small := range map[int64]bool{0: true, replay.Small: true, replay.Small + 1: false} {
		req := request(pieces(20_000, 20_000))
		b := replay.New(req, roomy, new(replay.Budget))
		io.CopyN(io.Discard, b.First(req), read)
		b.Hold(req)
		want(t, fmt.Sprint("after ", read, " bytes"), mustNext(t, b, req).Small, small)
	}
	body := pieces(1, 1)
	for _, c := range []struct {
		body   io.ReadCloser
		length int64
		small  bool
	}{
		{nil, 0, true}, {http.NoBody, 0, true}, {body, -1, false}, {body, 0, false},
		{body, 1, true}, {body, replay.Small, true}, {body, replay.Small + 1, false},
	} {
		req := &http.Request{Body: c.body, ContentLength: c.length}
		req.GetBody = func() (io.ReadCloser, error) { return c.body, nil }
		var b *replay.Body
		want(t, fmt.Sprintf("Content-Length %d of %T", c.length, c.body), mustNext(t, b, req).Small, c.small)
	}
}
