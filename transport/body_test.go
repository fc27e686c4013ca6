package transport_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

const kib, mib = 1 << 10, 1 << 20

// oldThenNew gives the token "old", and "new" to whoever was refused.
var oldThenNew = tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if old != nil {
		return &tokensource.Token{AccessToken: "new"}, nil
	}
	return &tokensource.Token{AccessToken: "old"}, nil
})

// bodyLogin gives "old" until it was refused, then "new" to all.
func bodyLogin() tokensource.Source {
	var refused atomic.Bool
	return tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old != nil {
			refused.Store(true)
		}
		if refused.Load() {
			return oldThenNew(ctx, bodyOldToken)
		}
		return oldThenNew(ctx, nil)
	})
}

var bodyOldToken = &tokensource.Token{AccessToken: "old"}

// Protocols that the tests run over.
var protocols = []string{"HTTP/1.1", "HTTP/2"}

// serveOver starts a server, and returns its URL and a transport that reaches it.
func serveOver(t testing.TB, protocol string, handler http.HandlerFunc) (string, *http.Transport) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Proto, protocol) {
			t.Errorf("the server got a request over %s, want %s", r.Proto, protocol)
		}
		handler(w, r)
	}))
	if protocol == "HTTP/2" {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv.URL, srv.Client().Transport.(*http.Transport)
}

// A delivery is what one attempt brought to the server.
type delivery struct {
	token, framing, sum, trailer string
}

// A bodyAPI refuses "old" once it has read so many bytes of the body, and keeps what else comes.
type bodyAPI struct {
	readFirst int64
	closes    bool          // with Connection: close
	readsOn   chan struct{} // what it waits for before it reads on after a refusal; nil: nothing

	mu   sync.Mutex
	came []delivery
}

const wholeBody = 1 << 62 // for readFirst

func (a *bodyAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := delivery{token: r.Header.Get("Authorization"), framing: fmt.Sprint(r.ContentLength, r.TransferEncoding)}
	refuses := d.token == "Bearer old"
	if a.closes {
		w.Header().Set("Connection", "close")
	}
	if refuses {
		http.NewResponseController(w).EnableFullDuplex()
		io.CopyN(io.Discard, r.Body, a.readFirst)
	} else {
		hash := sha256.New()
		_, err := io.Copy(hash, r.Body)
		d.sum, d.trailer = fmt.Sprintf("%x %v", hash.Sum(nil), err), r.Trailer.Get("X-Sum")
	}
	a.mu.Lock()
	a.came = append(a.came, d)
	a.mu.Unlock()
	if refuses {
		w.WriteHeader(401)
		io.WriteString(w, "refused")
		http.NewResponseController(w).Flush()
		if a.readsOn != nil {
			<-a.readsOn
		}
		io.Copy(io.Discard, r.Body) // or net/http may panic: it hits the end only after the handler
	}
}

// noise returns the first n of the same random bytes, and their sum.
func noise(n int64) (io.Reader, string) {
	data := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }
	hash := sha256.New()
	io.Copy(hash, data())
	return data(), fmt.Sprintf("%x <nil>", hash.Sum(nil))
}

// closedOnce checks, when the test is over and its server closed, that the body was closed once.
func closedOnce(t *testing.T, body *bodyOf) {
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); body.closes.Load() == 0 && time.Now().Before(end); {
			runtime.Gosched()
		}
		if n := body.closes.Load(); n != 1 {
			t.Errorf("body closed %d times, want 1", n)
		}
	})
}

// A bodyOf is a body whose Close is counted.
type bodyOf struct {
	io.Reader
	closes atomic.Int32
}

func (b *bodyOf) Close() error { b.closes.Add(1); return nil }

// getsStatus sends req and fails the test unless the answer is status and got.
func getsStatus(t *testing.T, rt http.RoundTripper, req *http.Request, status int) string {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatalf("RoundTrip: got error %v, want status %d", err, status)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Errorf("RoundTrip: got status %d and %v, want %d", resp.StatusCode, err, status)
	}
	return string(body)
}

func postBody(t testing.TB, url string, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// sameBytes sends noise of a size, and checks that the server gets it with the new token, framed as
// with the old one.
func sameBytes(t *testing.T, protocol string, size int64, a *bodyAPI, change func(*http.Request, *http.Transport)) {
	t.Helper()
	data, sum := noise(size)
	body := &bodyOf{Reader: data}
	closedOnce(t, body)
	url, base := serveOver(t, protocol, a.ServeHTTP)
	req := postBody(t, url, body)
	change(req, base)
	getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base, MaxBody: max(size, 4*mib)}, req, 200)
	if len(a.came) != 2 || a.came[0].token != "Bearer old" || a.came[1].token != "Bearer new" {
		t.Fatalf("the server got %v, want an attempt with each token", a.came)
	}
	if a.came[1].sum != sum {
		t.Errorf("the server got %s, want %s", a.came[1].sum, sum)
	}
	if a.came[1].framing != a.came[0].framing {
		t.Errorf("framing of the replay: got %s, want %s", a.came[1].framing, a.came[0].framing)
	}
}

func TestReplaySendsTheSameBytes(t *testing.T) {
	for _, protocol := range protocols {
		for _, size := range []int64{0, 1, kib, mib} {
			for moment, readFirst := range map[string]int64{"before": 0, "middle": size / 2, "after": wholeBody} {
				for framing, length := range map[string]int64{"unknown length": 0, "known length": size} {
					t.Run(fmt.Sprint(protocol, " ", size, " bytes, refused ", moment, ", ", framing), func(t *testing.T) {
						sameBytes(t, protocol, size, &bodyAPI{readFirst: readFirst}, func(req *http.Request, _ *http.Transport) {
							req.ContentLength = length
						})
					})
				}
			}
		}
	}
}

func TestReplaySendsTheSame64MiB(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: 64 MiB bodies")
	}
	for _, c := range []struct {
		protocol          string
		readFirst, length int64
	}{
		{"HTTP/1.1", 0, 0}, {"HTTP/1.1", 20 * mib, 64 * mib}, {"HTTP/1.1", wholeBody, 0},
		{"HTTP/2", 0, 0}, {"HTTP/2", 20 * mib, 0}, {"HTTP/2", wholeBody, 64 * mib},
	} {
		t.Run(fmt.Sprintf("%s, refused after %d", c.protocol, c.readFirst), func(t *testing.T) {
			sameBytes(t, c.protocol, 64*mib, &bodyAPI{readFirst: c.readFirst}, func(req *http.Request, _ *http.Transport) {
				req.ContentLength = c.length
			})
		})
	}
}

func TestReplayOfAConnectionThatCloses(t *testing.T) {
	for _, readFirst := range []int64{0, mib / 2, wholeBody} {
		for by, a := range map[string]*bodyAPI{"server": {readFirst: readFirst, closes: true}, "client": {readFirst: readFirst}} {
			for _, protocol := range protocols {
				t.Run(fmt.Sprintf("%s, by the %s, refused after %d", protocol, by, readFirst), func(t *testing.T) {
					a := &bodyAPI{readFirst: a.readFirst, closes: a.closes}
					sameBytes(t, protocol, mib, a, func(req *http.Request, _ *http.Transport) { req.Close = by == "client" })
				})
			}
		}
	}
}

func TestReplayAfterExpect100Continue(t *testing.T) {
	for _, protocol := range protocols {
		for _, readFirst := range []int64{0, mib / 2, wholeBody} {
			t.Run(fmt.Sprintf("%s, refused after %d", protocol, readFirst), func(t *testing.T) {
				sameBytes(t, protocol, mib, &bodyAPI{readFirst: readFirst}, func(req *http.Request, base *http.Transport) {
					req.Header.Set("Expect", "100-continue")
					base.ExpectContinueTimeout = time.Minute // the body waits for the 100
				})
			})
		}
	}
}

func TestReplayOfNoBody(t *testing.T) {
	for _, protocol := range protocols {
		for name, body := range map[string]io.ReadCloser{"nil": nil, "NoBody": http.NoBody} {
			a := &bodyAPI{readFirst: wholeBody}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			req := postBody(t, url, nil)
			req.Body = body
			getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
			if len(a.came) != 2 || a.came[0].framing != "0 []" || a.came[1].framing != "0 []" {
				t.Errorf("%s, %s: the server got %v, want two requests without a body", protocol, name, a.came)
			}
		}
	}
}

// until is a pipe as a body: its Read waits until something is written.
type until struct {
	*io.PipeReader
	w *io.PipeWriter
}

func newUntil() *until {
	r, w := io.Pipe()
	return &until{r, w}
}

func TestReplayIsWholeWithAReadInProgress(t *testing.T) {
	for _, protocol := range protocols {
		replayed := make(chan struct{})
		a := &bodyAPI{readFirst: kib}
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer new" {
				close(replayed)
			}
			a.ServeHTTP(w, r)
		})
		data, sum := noise(mib)
		body := newUntil()
		go func() {
			io.CopyN(body.w, data, kib)
			<-replayed // the rest comes when the second attempt has begun
			io.Copy(body.w, data)
			body.w.Close()
		}()
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, postBody(t, url, body), 200)
		if len(a.came) != 2 || a.came[1].sum != sum {
			t.Errorf("%s: the server got %v, want two attempts, the second with %s", protocol, a.came, sum)
		}
	}
}

// A stuck body gives a byte; its next Read does not return, not even when it is closed.
type stuck struct {
	once sync.Once
	free chan struct{}
}

func (s *stuck) Read(p []byte) (n int, err error) {
	s.once.Do(func() { n = copy(p, "x") })
	if n == 0 {
		<-s.free
		return 0, io.EOF
	}
	return n, nil
}

func (s *stuck) Close() error { return nil }

func TestAnswerThatNeedsNoBodyComesThoughAReadNeverReturns(t *testing.T) {
	for _, protocol := range protocols {
		for name, trailer := range map[string]http.Header{"no trailers": nil, "trailers": {"X-Sum": nil}} {
			t.Run(protocol+", "+name, func(t *testing.T) {
				url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
					http.NewResponseController(w).EnableFullDuplex()
					r.Body.Read(make([]byte, 1))
					if r.Header.Get("Authorization") == "Bearer old" {
						w.WriteHeader(401)
					}
					http.NewResponseController(w).Flush()
				})
				body := &stuck{free: make(chan struct{})}
				t.Cleanup(func() { close(body.free) })
				req := postBody(t, url, body)
				req.Trailer = trailer
				resp, err := (&transport.Auth{Source: oldThenNew, Base: base}).RoundTrip(req)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("got %v and %v, want status 200", resp, err)
				}
				go resp.Body.Close() // with HTTP/2 it waits for the Read
			})
		}
	}
}

func TestFirstByteReachesTheServerBeforeTheCallerHasTheRest(t *testing.T) {
	for _, protocol := range protocols {
		first := make(chan struct{})
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			if n, _ := io.ReadFull(r.Body, make([]byte, 1)); n == 1 {
				close(first)
			}
			io.Copy(w, r.Body)
		})
		body := newUntil()
		go func() {
			io.WriteString(body.w, "a")
			<-first
			io.WriteString(body.w, "bc")
			body.w.Close()
		}()
		auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base}
		if got := getsStatus(t, auth, postBody(t, url, body), 200); got != "bc" {
			t.Errorf("%s: got %q, want %q", protocol, got, "bc")
		}
	}
}

// A roundTrip is a base made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// bodyAnswer is a response with a body.
func bodyAnswer(status int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body)}
}

func TestResponseWithNilBodyIsReplayed(t *testing.T) {
	auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Authorization") == "Bearer old" {
			return &http.Response{StatusCode: 401}, nil
		}
		return bodyAnswer(200, http.NoBody), nil
	})}
	getsStatus(t, auth, postBody(t, "https://api.example", nil), 200)
	auth.Source = tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old != nil {
			return nil, tokensource.ErrReauthenticate
		}
		return &tokensource.Token{AccessToken: "old"}, nil
	})
	if _, err := auth.RoundTrip(postBody(t, "https://api.example", nil)); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("without another token: got %v, want ErrReauthenticate", err)
	}
}

// Over HTTP/1.1 only: with HTTP/2, net/http itself ends the upload when it is refused.
func TestRefusedUploadThatIsNotReplayedGoesOn(t *testing.T) {
	for name, auth := range map[string]*transport.Auth{
		"past the bound": {Source: oldThenNew, MaxBody: 64 * kib},
		"no other token": {Source: tokensource.Static(bodyOldToken)},
	} {
		url, base := serveOver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			hash := sha256.New()
			io.CopyN(hash, r.Body, mib/2)
			w.WriteHeader(401)
			http.NewResponseController(w).Flush()
			_, err := io.Copy(hash, r.Body)
			fmt.Fprintf(w, "%x %v", hash.Sum(nil), err)
		})
		auth.Base = base
		data, sum := noise(mib)
		if got := getsStatus(t, auth, postBody(t, url, io.MultiReader(data)), 401); got != sum {
			t.Errorf("%s: the server got %s, want %s", name, got, sum)
		}
	}
}
