package replay_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/replay"
)

// gated are the bodies whose Close waits for an answer, recorded and with GetBody.
func gated(ctx context.Context, size int) map[string]io.ReadCloser {
	recorded := request(pieces(size, 100)).WithContext(ctx)
	again := request(pieces(size, 100)).WithContext(ctx)
	again.ContentLength = int64(size)
	again.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("unused") }
	return map[string]io.ReadCloser{
		"recorded": replay.New(recorded, roomy, new(replay.Budget)).First(recorded),
		"GetBody":  new(replay.Gated).Of(again, again.Body),
	}
}

// A second answer, or a second Close, is none.
func TestCloseWaitsOnceForTheAnswer(t *testing.T) {
	for _, kind := range []string{"recorded", "GetBody"} {
		synctest.Test(t, func(t *testing.T) {
			body := gated(t.Context(), replay.Small+1)[kind]
			body.Read(make([]byte, 1))
			began := time.Now()
			body.Close()
			body.Close()
			want(t, kind+": both Closes took", time.Since(began), 250*time.Millisecond)
			body.(interface{ Answered() }).Answered()
			body.(interface{ Answered() }).Answered()
		})
	}
}

func TestTwoClosesAtOnceWaitForTheSameAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := gated(t.Context(), replay.Small+1)["recorded"]
		body.Read(make([]byte, 1))
		began := time.Now()
		var both sync.WaitGroup
		both.Go(func() { body.Close() })
		both.Go(func() { body.Close() })
		synctest.Wait()
		body.(interface{ Answered() }).Answered()
		both.Wait()
		want(t, "they took", time.Since(began), time.Duration(0))
	})
}

func TestCloseOfARecordedBodyWaitsOnlyIfAnAnswerMayCome(t *testing.T) {
	for name, c := range map[string]struct {
		end  error // of the caller's body, after 10 bytes
		play func(b *replay.Body, req *http.Request) io.Closer
		want time.Duration
	}{
		"the caller's body failed": {errScript, func(b *replay.Body, req *http.Request) io.Closer {
			io.ReadAll(b.First(req))
			return b.First(req)
		}, 0},
		"cut off": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			b.First(req).Read(make([]byte, 1))
			b.Hold(req)
			b.Next(req)
			return b.First(req)
		}, 0},
		"what was kept is not sent whole": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			io.ReadAll(b.First(req))
			b.Hold(req)
			next, _ := b.Next(req)
			next.Body.Read(make([]byte, 1))
			return next.Body
		}, 250 * time.Millisecond},
		"the end was not written": {io.EOF, func(b *replay.Body, req *http.Request) io.Closer {
			io.Copy(stopped{}, b.First(req))
			return b.First(req)
		}, 250 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			end := io.MultiReader(strings.NewReader("0123456789"), errReader{c.end})
			req := request(io.NopCloser(iotest.DataErrReader(end))).WithContext(t.Context())
			b := replay.New(req, roomy, new(replay.Budget))
			body := c.play(b, req)
			began := time.Now()
			body.Close()
			want(t, name+": Close took", time.Since(began), c.want)
		})
	}
}

func TestCloseBeforeTheEndWaitsForTheAnswer(t *testing.T) {
	for how, c := range map[string]struct {
		read     int64 // before Close
		answered time.Duration
		patience time.Duration // of the request's context
		want     time.Duration
	}{
		"answered at once":   {100, 0, time.Hour, 0},
		"answered in time":   {100, 10 * time.Millisecond, time.Hour, 10 * time.Millisecond},
		"never answered":     {100, time.Hour, time.Hour, 250 * time.Millisecond},
		"context ends":       {100, time.Hour, 20 * time.Millisecond, 20 * time.Millisecond},
		"nothing was read":   {0, time.Hour, time.Hour, 0},
		"read to the end":    {replay.Small + 1, time.Hour, time.Hour, 0},
		"read, and then EOF": {replay.Small + 2, time.Hour, time.Hour, 0},
	} {
		for _, kind := range []string{"recorded", "GetBody"} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				body := gated(ctx, replay.Small+1)[kind]
				n, err := io.CopyN(io.Discard, struct{ io.Reader }{body}, c.read)
				if c.read > replay.Small && err == nil {
					body.Read(make([]byte, 1)) // the end itself
				}
				time.AfterFunc(c.answered, body.(interface{ Answered() }).Answered)
				synctest.Wait()
				began := time.Now()
				body.Close()
				if took := time.Since(began); took != c.want {
					t.Errorf("%s, %s: Close after %d bytes took %v, want %v", how, kind, n, took, c.want)
				}
				time.Sleep(2 * time.Hour)
			})
		}
	}
}

func TestSmallBodiesAndThoseThatAreGatedAlreadyStayWhatTheyAre(t *testing.T) {
	large := request(pieces(1, 1))
	large.GetBody = func() (io.ReadCloser, error) { return nil, nil }
	small, empty, none := *large, *large, *large
	small.ContentLength, empty.Body, none.Body = replay.Small, http.NoBody, nil
	for name, req := range map[string]*http.Request{"no body": &none, "empty": &empty, "small": &small, "no GetBody": request(large.Body)} {
		want(t, name, new(replay.Gated).Of(req, req.Body), req.Body)
	}
	gate := new(replay.Gated).Of(large, large.Body)
	want(t, "large", gate == large.Body, false)
	want(t, "gated", new(replay.Gated).Of(large, gate), gate)
}

// Over TLS, and with HTTP/2, the system can't send it.
func TestAFileIsGatedWhereTheSystemDoesNotSendIt(t *testing.T) {
	for scheme, gated := range map[string]bool{"http": false, "https": true} {
		file := new(os.File)
		req := &http.Request{URL: &url.URL{Scheme: scheme}, Body: file}
		req.GetBody = func() (io.ReadCloser, error) { return nil, nil }
		got := new(replay.Gated).Of(req, file)
		want(t, scheme+": gated", got != io.ReadCloser(file), gated)
	}
}

func TestCloseDoesNotWaitIfTheBodyGaveNothing(t *testing.T) {
	for _, kind := range []string{"recorded", "GetBody"} {
		synctest.Test(t, func(t *testing.T) {
			body := gated(t.Context(), replay.Small+1)[kind]
			body.Read(nil)
			began := time.Now()
			body.Close()
			want(t, kind+": Close took", time.Since(began), time.Duration(0))
		})
	}
}
