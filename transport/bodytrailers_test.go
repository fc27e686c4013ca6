package transport_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// summed is a request whose trailer is set when its body ends.
func summed(t *testing.T, url string, size int64) (*http.Request, string) {
	data, sum := noise(size)
	req := postBody(t, url, nil)
	req.Trailer = http.Header{"X-Sum": nil}
	req.Body = io.NopCloser(io.MultiReader(data, atEnd(func() { req.Trailer.Set("X-Sum", sum) })))
	return req, sum
}

type atEnd func()

func (f atEnd) Read([]byte) (int, error) { f(); return 0, io.EOF }

func TestReplaySendsTheTrailers(t *testing.T) {
	for _, protocol := range protocols {
		for _, readFirst := range []int64{0, mib / 2, wholeBody} {
			a := &bodyAPI{readFirst: readFirst}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			req, sum := summed(t, url, mib)
			getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
			if len(a.came) != 2 || a.came[1].sum != sum || a.came[1].trailer != sum {
				t.Errorf("%s, refused after %d: got %+v, want body and trailer of %s", protocol, readFirst, a.came, sum)
			}
		}
	}
}

func TestTheFirstAttemptSendsTheTrailers(t *testing.T) {
	for _, protocol := range protocols {
		a := new(bodyAPI)
		url, base := serveOver(t, protocol, a.ServeHTTP)
		req, sum := summed(t, url, kib)
		getsStatus(t, &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "new"}), Base: base}, req, 200)
		if len(a.came) != 1 || a.came[0].sum != sum || a.came[0].trailer != sum {
			t.Errorf("%s: got %+v, want body and trailer of %s", protocol, a.came, sum)
		}
	}
}

func TestReplaySendsTheTrailersWithAReadInProgress(t *testing.T) {
	for _, protocol := range protocols {
		a := &bodyAPI{readFirst: 1}
		url, base := serveOver(t, protocol, a.ServeHTTP)
		source := make(chan struct{})
		auth := &transport.Auth{Base: base, Source: tokensource.Func(
			func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				if old != nil {
					close(source)
				}
				return oldThenNew(ctx, old)
			})}
		req, sum := summed(t, url, kib)
		body, data := newUntil(), req.Body
		req.Body = body
		go func() { // sets the trailer: a caller may, until the body ends
			io.CopyN(body.w, data, 1)
			<-source // the server has refused while a Read is in progress
			io.Copy(body.w, data)
			body.w.Close()
		}()
		getsStatus(t, auth, req, 200)
		if len(a.came) != 2 || a.came[1].sum != sum || a.came[1].trailer != sum {
			t.Errorf("%s: got %+v, want body and trailer of %s", protocol, a.came, sum)
		}
	}
}

func TestTheReplaysTrailerIsNotTheCallersWhoMayStillWriteToIt(t *testing.T) {
	req := postBody(t, "https://api.example", io.MultiReader(strings.NewReader("body")))
	req.Trailer = http.Header{"X-Sum": nil}
	auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(out *http.Request) (*http.Response, error) {
		if out.Header.Get("Authorization") == "Bearer old" {
			return bodyAnswer(401, http.NoBody), nil
		}
		req.Trailer.Set("X-Sum", "the caller's")
		if got := out.Trailer.Get("X-Sum"); got != "" {
			t.Errorf("got %q before the end, want nothing", got)
		}
		io.Copy(io.Discard, out.Body)
		if got := out.Trailer.Get("X-Sum"); got != "the caller's" {
			t.Errorf("got %q at the end, want what the caller wrote", got)
		}
		return bodyAnswer(200, http.NoBody), nil
	})}
	getsStatus(t, auth, req, 200)
}
