package transport_test

import (
	"bytes"
	"compress/gzip"
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

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
