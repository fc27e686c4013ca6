package transport_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// expired is a rule that looks into every body that it may look into.
func expired(resp *http.Response) bool {
	return transport.Unauthorized(resp) || transport.HasJSON(resp, "error", "token_expired")
}

// lenient is an Auth that looks into bodies, and whose token is good.
func lenient(base http.RoundTripper) *transport.Auth {
	return &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base, Refused: expired}
}

// served returns what a handler's answer is to a client that asks through an Auth.
func served(t *testing.T, protocol string, handler http.HandlerFunc, read func(*http.Response)) {
	t.Helper()
	url, base := serveOver(t, protocol, handler)
	resp, err := lenient(base).RoundTrip(postBody(t, url, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read(resp)
}

// asJSON begins an answer of JSON.
func asJSON(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, text)
	http.NewResponseController(w).Flush()
}

func TestAnAnswerThatIsNotRefusedComesWhole(t *testing.T) {
	long := `{"items":["` + strings.Repeat("x", 300*kib) + `"]}`
	for _, protocol := range protocols {
		for name, body := range map[string]string{"short": `{"ok":true}`, "long": long, "no JSON": "{ok}", "empty": ""} {
			for _, length := range []bool{true, false} {
				served(t, protocol, func(w http.ResponseWriter, r *http.Request) {
					if w.Header().Set("Content-Type", "application/json"); length {
						w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					}
					io.WriteString(w, body)
					w.Header().Set(http.TrailerPrefix+"X-Sum", "sum")
					http.NewResponseController(w).Flush()
				}, func(resp *http.Response) {
					got, err := io.ReadAll(resp.Body)
					if string(got) != body || err != nil || length && resp.ContentLength != int64(len(body)) {
						t.Errorf("%s, %s: got %d bytes of %d, %v, want %d", protocol, name, len(got), resp.ContentLength, err, len(body))
					}
					if sum := resp.Trailer.Get("X-Sum"); sum != "sum" && !(length && protocol == "HTTP/1.1") {
						t.Errorf("%s, %s: got the trailer %q, want it", protocol, name, sum)
					}
				})
			}
		}
	}
}

// net/http decompresses, and the rule sees what the caller will.
func TestARuleSeesWhatNetHTTPDecompresses(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, `{"ok":false,"error":"token_expired"}`)
	z.Close()
	for _, protocol := range protocols {
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.Header.Get("Authorization") == "Bearer old" {
				w.Header().Set("Content-Encoding", "gzip")
				w.Write(zipped.Bytes())
			}
		})
		resp, err := (&transport.Auth{Source: oldThenNew, Base: base, Refused: expired}).RoundTrip(postBody(t, url, nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if resp.Body.Close(); len(got) > 0 || err != nil {
			t.Errorf("%s: got %q and %v, want the second answer", protocol, got, err)
		}
	}
}

// What has no body, or one that is not to be read, says application/json all the same.
func TestAnswersThatHaveNoJSONPassARuleUntouched(t *testing.T) {
	for _, protocol := range protocols {
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			switch status, _ := strconv.Atoi(r.URL.Path[1:]); {
			case r.Method == http.MethodHead:
				w.Header().Set("Content-Length", "36")
			case status == 200:
				w.Header().Set("Content-Encoding", "gzip")
				io.WriteString(w, "as it is")
			default:
				w.WriteHeader(status)
			}
		})
		for _, c := range []struct{ method, status, want string }{{"HEAD", "200", ""}, {"GET", "204", ""}, {"GET", "304", ""}, {"GET", "200", "as it is"}} {
			req := postBody(t, url+"/"+c.status, nil)
			req.Method = c.method
			req.Header.Set("Accept-Encoding", "gzip") // so net/http leaves it compressed
			status, _ := strconv.Atoi(c.status)
			if got := getsStatus(t, lenient(base), req, status); got != c.want {
				t.Errorf("%s, %s %s: got %q, want %q", protocol, c.method, c.status, got, c.want)
			}
		}
	}
}

func TestAnUpgradePassesARule(t *testing.T) {
	url, base := serveOver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Type: application/json\r\n\r\n")
		rw.Flush()
		io.CopyN(c, rw, 4)
	})
	req := postBody(t, url, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := lenient(base).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w, ok := resp.Body.(io.ReadWriter)
	if !ok || resp.StatusCode != 101 {
		t.Fatalf("got status %d and a %T, want 101 and a connection", resp.StatusCode, resp.Body)
	}
	io.WriteString(w, "ping")
	if got, err := io.ReadAll(w); string(got) != "ping" || err != nil {
		t.Errorf("got %q and %v, want the echo", got, err)
	}
}

// The two ways to read a body, the second by its WriteTo.
var ways = map[string]func(io.Reader) (string, error){
	"ReadAll": func(r io.Reader) (string, error) {
		got, err := io.ReadAll(r)
		return string(got), err
	},
	"Copy": func(r io.Reader) (string, error) {
		var got strings.Builder
		n, err := io.Copy(&got, r)
		return got.String()[:n], err
	},
}

// What the server sends of an answer, in time, while the caller reads it.
func TestAStreamOfJSONIsHeldUpForAMoment(t *testing.T) {
	for name, c := range map[string]struct {
		gap  time.Duration // before the first byte, and between two
		want time.Duration // until RoundTrip returns
	}{
		"it drips":         {20 * time.Millisecond, 70 * time.Millisecond},
		"it begins late":   {400 * time.Millisecond, 450 * time.Millisecond},
		"it never begins":  {time.Hour, time.Second},
		"it comes at once": {0, 0},
	} {
		for way, read := range ways {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				sent := `{"items":[` + strings.Repeat(`1,`, 10)
				go func() {
					for i := range len(sent) {
						time.Sleep(c.gap)
						io.WriteString(w, sent[i:i+1])
					}
					w.CloseWithError(io.ErrUnexpectedEOF)
				}()
				began := time.Now()
				resp := answerOf(t, r)
				if took := time.Since(began); took != c.want {
					t.Errorf("%s: got the answer after %v, want %v", name, took, c.want)
				}
				if got, err := read(resp.Body); got != sent || err != io.ErrUnexpectedEOF {
					t.Errorf("%s, %s: got %q and %v, want all and the error", name, way, got, err)
				}
				if resp.StatusCode != 200 || resp.Header.Get("Content-Type") == "" {
					t.Errorf("%s: got status %d and the header %v, want the server's", name, resp.StatusCode, resp.Header)
				}
			})
		}
	}
}

func TestWhatWasReadAheadIsNotReadAfterClose(t *testing.T) {
	for way, read := range ways {
		resp := answerOf(t, io.NopCloser(strings.NewReader(`{"ok":true}`)))
		resp.Body.Close()
		if got, err := read(resp.Body); got != "" || err != http.ErrBodyReadAfterClose {
			t.Errorf("%s: got %q and %v, want ErrBodyReadAfterClose", way, got, err)
		}
	}
}

func TestNothingIsReadAheadOnceARuleHasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		var sent atomic.Int32
		go func() {
			for range 10 {
				time.Sleep(20 * time.Millisecond)
				w.Write([]byte("["))
				sent.Add(1)
			}
		}()
		resp := answerOf(t, r)
		before := sent.Load()
		time.Sleep(time.Minute)
		if got := sent.Load() - before; got > 1 {
			t.Errorf("%d pieces were read after that, want at most the one that was waited for", got)
		}
		io.Copy(io.Discard, io.LimitReader(resp.Body, 10))
	})
}

// answerOf is the answer with a body of JSON, through an Auth.
func answerOf(t *testing.T, body io.ReadCloser) *http.Response {
	t.Helper()
	resp, err := lenient(roundTrip(func(*http.Request) (*http.Response, error) {
		resp := jsonAnswer(200, "")
		resp.Body = body
		return resp, nil
	})).RoundTrip(postBody(t, "https://api.example", nil))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestTheFirstByteOfAStreamReachesTheCallerBeforeTheSecondIsSent(t *testing.T) {
	for _, protocol := range protocols {
		for _, media := range []string{"application/json", "text/event-stream", "application/x-ndjson"} {
			goOn := make(chan struct{})
			served(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", media)
				io.WriteString(w, "[")
				http.NewResponseController(w).Flush()
				<-goOn
				io.WriteString(w, "1]")
			}, func(resp *http.Response) {
				first := make([]byte, 5)
				n, err := resp.Body.Read(first)
				close(goOn)
				rest, err2 := io.ReadAll(resp.Body)
				if got := string(first[:n]) + string(rest); got != "[1]" || err != nil || err2 != nil {
					t.Errorf("%s, %s: got %q, %v and %v", protocol, media, got, err, err2)
				}
			})
		}
	}
}

// A stream of a gibibyte takes no more memory than its beginning.
func TestAGibibyteOfJSONIsReadAheadForItsBeginningOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where time stands still while anything runs
		body := &counted{left: 1 << 30}
		resp := answerOf(t, body)
		if body.read > 64*kib {
			t.Errorf("%d bytes were read ahead, want at most 64 KiB", body.read)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != 1<<30 || err != nil {
			t.Errorf("the caller got %d bytes and %v, want all", n, err)
		}
	})
}

// counted yields an endless list.
type counted struct{ left, read int64 }

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), c.left)], brackets)
	c.left, c.read = c.left-int64(n), c.read+int64(n)
	return n, nil
}

var brackets = strings.Repeat("[", 64*kib)

func (c *counted) Close() error { return nil }

// fast is a body with a WriterTo, and a writer with a ReaderFrom.
type fast struct {
	io.Reader
	used *string
}

func (f fast) Close() error { return nil }
func (f fast) WriteTo(w io.Writer) (int64, error) {
	*f.used += "WriteTo "
	return io.Copy(struct{ io.Writer }{w}, f.Reader)
}

type fastWriter struct {
	bytes.Buffer
	used *string
}

func (f *fastWriter) ReadFrom(r io.Reader) (int64, error) {
	*f.used += "ReadFrom "
	return f.Buffer.ReadFrom(r)
}

func TestCopyGoesTheFastWayThatItWentWithoutARule(t *testing.T) {
	text := `{"items":"` + strings.Repeat("x", 100*kib) + `"}`
	for _, want := range []string{"WriteTo ", "ReadFrom "} {
		used := ""
		var body io.ReadCloser = fast{strings.NewReader(text), &used}
		if want == "ReadFrom " {
			body = io.NopCloser(struct{ io.Reader }{strings.NewReader(text)})
		}
		resp := answerOf(t, body)
		w := &fastWriter{used: &used}
		n, err := io.Copy(w, resp.Body)
		if used != want || w.String() != text || n != int64(len(text)) || err != nil {
			t.Errorf("got %d bytes by %q and %v, want %d by %q", n, used, err, len(text), want)
		}
	}
}

func TestAWriterThatFailsHasTakenWhatItSays(t *testing.T) {
	full := errors.New("full")
	for _, c := range []struct {
		says int
		err  error
		want int64
		is   error
	}{{3, full, 3, full}, {3, nil, 3, io.ErrShortWrite}, {-1, full, 0, full}, {100, full, 11, full}} {
		resp := answerOf(t, io.NopCloser(strings.NewReader(`{"ok":true}`)))
		n, err := io.Copy(writerFunc(func(p []byte) (int, error) { return c.says, c.err }), resp.Body)
		rest, _ := io.ReadAll(resp.Body)
		if n != c.want || err != c.is || string(rest) != `{"ok":true}`[c.want:] {
			t.Errorf("a writer says %d, %v: got %d, %v and then %q, want %d, %v and the rest", c.says, c.err, n, err, rest, c.want, c.is)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

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

// As a layer may that looks into bodies, too, and changes what it returns.
func TestAResponseThatWasCopiedBelowComesAsItIs(t *testing.T) {
	resp, err := lenient(roundTrip(func(*http.Request) (*http.Response, error) {
		resp := jsonAnswer(200, `{"ok":true}`)
		transport.PeekJSON(resp)
		changed := *resp
		changed.StatusCode = 203
		return &changed, nil
	})).RoundTrip(postBody(t, "https://api.example", nil))
	if err != nil || resp.StatusCode != 203 {
		t.Errorf("got %v and %v, want the layer's 203", resp, err)
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

// Reads of nothing are no beginning and no end.
func TestARuleWaitsNoLongerThanItMust(t *testing.T) {
	for _, c := range []struct{ sent, want string }{
		{`{"ok":true}`, `{"ok":true}`},
		{` {"ok":true}` + "\n", `{"ok":true}`},
		{`[]`, `[]`},
		{`no JSON`, ``},
		{`{"ok":true} no JSON`, ``},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			defer w.Close()
			go func() { // and then the stream stays open
				w.Write(nil)
				w.Write(nil)
				io.WriteString(w, c.sent)
			}()
			resp := jsonAnswer(200, "")
			resp.Body = r
			began := time.Now()
			if got := string(transport.PeekJSON(resp)); got != c.want || time.Since(began) > 0 {
				t.Errorf("%q: got %q after %v, want %q at once", c.sent, got, time.Since(began), c.want)
			}
		})
	}
}

func TestABodyWithoutAByteHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		answerOf(t, io.NopCloser(strings.NewReader("")))
		if took := time.Since(began); took > 0 {
			t.Errorf("the answer took %v, want none", took)
		}
	})
}

// net/http writes trailers into its response while it reads, which goes on when the rule
// has given up. The caller may look at the response meanwhile, as httputil.ReverseProxy does.
func TestTrailersThatComeAfterARuleHasGivenUpDisturbNobody(t *testing.T) {
	for what, over := range map[string]func(http.RoundTripper) http.RoundTripper{
		"Auth":           func(base http.RoundTripper) http.RoundTripper { return lenient(base) },
		"Auth, not Copy": func(base http.RoundTripper) http.RoundTripper { return lenient(base) },
		"DPoP":           func(base http.RoundTripper) http.RoundTripper { return &transport.DPoP{Key: p256, Base: base} },
	} {
		for _, protocol := range protocols {
			goOn, ended := make(chan struct{}), make(chan struct{})
			url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				w.Header().Set("DPoP-Nonce", "n")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest) // else DPoP does not look
				asJSON(w, "[")
				<-goOn
				w.Header().Set(http.TrailerPrefix+"X-Sum", "sum")
			})
			resp, err := over(base).RoundTrip(postBody(t, url, nil))
			if err != nil {
				t.Fatal(err)
			}
			before := *resp
			close(goOn)
			<-ended
			during := *resp
			body := io.Reader(resp.Body)
			if what == "Auth, not Copy" {
				body = struct{ io.Reader }{body}
			}
			n, err := io.Copy(io.Discard, body)
			if n != 1 || err != nil || resp.Trailer.Get("X-Sum") != "sum" {
				t.Errorf("%s, %s: got %d bytes, %v and the trailers %v, want the sum", what, protocol, n, err, resp.Trailer)
			}
			if len(before.Trailer)+len(during.Trailer) > 0 {
				t.Errorf("%s, %s: got trailers before the end", what, protocol)
			}
			resp.Body.Close()
		}
	}
}

// net/http does so with HTTP/2 if a body is shorter than its Content-Length.
func TestTrailersBesideAReadErrorReachTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trailers, end := make(chan struct{}), make(chan struct{})
		base := roundTrip(func(*http.Request) (*http.Response, error) {
			resp := jsonAnswer(200, "")
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("["), readerFunc(func([]byte) (int, error) {
				<-trailers
				resp.Trailer = http.Header{"X-Sum": {"sum"}}
				<-end
				return 0, io.ErrUnexpectedEOF
			})))
			return resp, nil
		})
		resp, err := lenient(base).RoundTrip(postBody(t, "https://api.example", nil))
		if err != nil {
			t.Fatal(err)
		}
		close(trailers)
		synctest.Wait()
		if n, err := resp.Body.Read(make([]byte, 1)); n != 1 || err != nil || len(resp.Trailer) > 0 {
			t.Errorf("got %d bytes, %v and the trailers %v, want the first byte", n, err, resp.Trailer)
		}
		close(end)
		if _, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || resp.Trailer.Get("X-Sum") != "sum" {
			t.Errorf("got %v and the trailers %v, want the error and the sum", err, resp.Trailer)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
