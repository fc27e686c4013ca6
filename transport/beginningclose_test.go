package transport_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/transport"
)

func TestWhatWasReadAheadIsNotReadAfterClose(t *testing.T) {
	for way, read := range ways {
		resp := answerOf(t, io.NopCloser(strings.NewReader(`{"ok":true}`)))
		resp.Body.Close()
		if got, err := read(resp.Body); got != "" || err != http.ErrBodyReadAfterClose {
			t.Errorf("%s: got %q and %v, want ErrBodyReadAfterClose", way, got, err)
		}
	}
}

// panics is a body whose Read panics, after a few bytes.
type panics struct{ text io.Reader }

func (p panics) Read(b []byte) (int, error) {
	n, err := p.text.Read(b[:min(len(b), 1)])
	if err != nil {
		panic("no more")
	}
	return n, nil
}

func (panics) Close() error { return nil }

func TestAReadErrorInTheBeginningComesAtItsPlace(t *testing.T) {
	for name, body := range map[string]io.ReadCloser{
		"an error":         io.NopCloser(io.MultiReader(strings.NewReader(`{"error":`), errReader{})),
		"a panic":          panics{strings.NewReader(`{"error":`)},
		"a count too high": io.NopCloser(io.MultiReader(strings.NewReader(`{"error":`), tooMany{})),
		"a count too low":  io.NopCloser(io.MultiReader(strings.NewReader(`{"error":`), readerFunc(func([]byte) (int, error) { return -1, nil }))),
	} {
		resp := answerOf(t, body)
		for range 2 { // it stays
			got, err := io.ReadAll(resp.Body)
			if err == nil || len(got) > 0 && string(got) != `{"error":` {
				t.Errorf("%s: got %q and %v, want the beginning and an error", name, got, err)
			}
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%s: Copy got no error", name)
		}
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type tooMany struct{}

func (tooMany) Read(p []byte) (int, error) { return len(p) + 1, nil }

func TestCloseDoesNotWaitForAReadInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &unclosable{gate: make(chan struct{})}
		resp := answerOf(t, body)
		if err := resp.Body.Close(); err != nil { // or it hangs
			t.Errorf("got %v, want none yet", err)
		}
		close(body.gate)
		synctest.Wait()
		if got := body.closes.Load(); got != 1 {
			t.Errorf("the body was closed %d times, want once", got)
		}
	})
}

func TestCloseTellsTheErrorOfABodyThatWasReadAhead(t *testing.T) {
	broken := errors.New("broken")
	body := struct {
		io.Reader
		closeFunc
	}{strings.NewReader(`{"ok":true}`), func() error { return broken }}
	if err := answerOf(t, body).Body.Close(); err != broken {
		t.Errorf("got %v, want the body's error", err)
	}
}

func TestABodyThatNeverBeginsCanBeClosed(t *testing.T) {
	for _, protocol := range protocols {
		for _, encoding := range []string{"", "gzip"} {
			ended := make(chan struct{})
			url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", encoding)
				asJSON(w, "")
				<-r.Context().Done()
				close(ended)
			})
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := lenient(base).RoundTrip(postBody(t, url, nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil {
				t.Errorf("%s %s: got %v, want it closed", protocol, encoding, err)
			}
			if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s %s: a closed body can be read", protocol, encoding)
			}
			if encoding == "gzip" { // net/http waits for its first byte, or for the context
				cancel()
			}
			<-ended
			cancel()
		}
	}
}

func TestTheContextEndsTheWaitForABeginningAndForTheEnd(t *testing.T) {
	for _, begun := range []string{"", "["} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			r, w := io.Pipe()
			defer w.Close()
			go io.WriteString(w, begun)
			resp := jsonAnswer(200, "")
			resp.Body, resp.Request = r, postBody(t, "https://api.example", nil).WithContext(ctx)
			began := time.Now()
			if transport.PeekJSON(resp) != nil || time.Since(began) != 10*time.Millisecond {
				t.Errorf("%q: got JSON, or waited %v, want none after 10 ms", begun, time.Since(began))
			}
		})
	}
}
