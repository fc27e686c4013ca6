package transport_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
	closes    bool // with Connection: close

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

func TestHugeUploadRefusedEarlyIsReplayedWithASmallBound(t *testing.T) {
	for _, protocol := range protocols {
		a := &bodyAPI{readFirst: 0}
		url, base := serveOver(t, protocol, a.ServeHTTP)
		base.DialContext = dialSmall
		data, sum := noise(64 * mib)
		req := postBody(t, url, data)
		req.ContentLength = 64 * mib
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
		if len(a.came) != 2 || a.came[1].sum != sum {
			t.Errorf("%s: the server got %v, want two attempts, the second with %s", protocol, a.came, sum)
		}
	}
}

// dialSmall connects with a small send buffer: on a busy machine, Linux takes more than
// 4 MiB into a loopback connection before anyone reads.
func dialSmall(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(64 * kib)
	}
	return conn, err
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

// A roundTrip is a base made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// bodyAnswer is a response with a body.
func bodyAnswer(status int, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body)}
}

func TestBoundReachedDuringTheRefreshDoesNotShortenTheReplay(t *testing.T) {
	for _, limits := range []*transport.Auth{{MaxBody: kib}, {MaxMemory: kib}} {
		synctest.Test(t, func(t *testing.T) {
			data, sum := noise(mib)
			body := newUntil()
			var got []byte
			auth := &transport.Auth{MaxBody: limits.MaxBody, MaxMemory: limits.MaxMemory}
			auth.Base = roundTrip(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer old" {
					go io.Copy(io.Discard, req.Body)
					io.CopyN(body.w, data, 512)
					return bodyAnswer(401, http.NoBody), nil
				}
				got, _ = io.ReadAll(req.Body)
				return bodyAnswer(200, http.NoBody), nil
			})
			auth.Source = tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
				if old != nil {
					go func() { io.Copy(body.w, data); body.w.Close() }()
					time.Sleep(200 * time.Millisecond)
				}
				return oldThenNew(ctx, old)
			})
			getsStatus(t, auth, postBody(t, "https://api.example", body), 200)
			if s := fmt.Sprintf("%x <nil>", sha256.Sum256(got)); s != sum {
				t.Errorf("the replay has %d bytes with sum %s, want %d with %s", len(got), s, mib, sum)
			}
		})
	}
}

func TestRefusalNearTheBoundIsReplayedWholeOrReturned(t *testing.T) {
	for _, protocol := range protocols {
		for _, readFirst := range []int64{0, 63 * kib, 64*kib - 1, 64 * kib, 64*kib + 1, 96 * kib, 128 * kib, 256 * kib} {
			a := &bodyAPI{readFirst: readFirst}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			data, sum := noise(mib)
			auth := &transport.Auth{Source: oldThenNew, Base: base, MaxBody: 128 * kib}
			resp, err := auth.RoundTrip(postBody(t, url, io.MultiReader(data)))
			if err != nil {
				t.Fatalf("%s, refused after %d: got error %v", protocol, readFirst, err)
			}
			resp.Body.Close()
			whole := resp.StatusCode == 200 && len(a.came) == 2 && a.came[1].sum == sum
			if !whole && (resp.StatusCode != 401 || len(a.came) != 1) {
				t.Errorf("%s, refused after %d: got status %d and %v, want all of %s, or 401", protocol, readFirst, resp.StatusCode, a.came, sum)
			}
			if readFirst > 128*kib && whole {
				t.Errorf("%s, refused after %d: replayed, want 401 as the bound was crossed", protocol, readFirst)
			}
		}
	}
}

func TestUploadPastABoundGoesThroughAndItsRefusalComesUntouched(t *testing.T) {
	for _, protocol := range protocols {
		for _, limits := range []*transport.Auth{{MaxBody: 64 * kib}, {MaxMemory: 64 * kib}, {MaxBody: -1}} {
			a := &bodyAPI{readFirst: wholeBody}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			auth := &transport.Auth{Source: bodyLogin(), Base: base, MaxBody: limits.MaxBody, MaxMemory: limits.MaxMemory}
			for _, want := range []struct {
				status int
				text   string
			}{{401, "refused"}, {200, ""}} {
				data, _ := noise(mib)
				if got := getsStatus(t, auth, postBody(t, url, io.MultiReader(data)), want.status); got != want.text {
					t.Errorf("%s: got body %q, want %q", protocol, got, want.text)
				}
			}
			_, sum := noise(mib)
			if len(a.came) != 2 || a.came[1].sum != sum {
				t.Errorf("%s: the server got %v, want one attempt for each request, the second with %s", protocol, a.came, sum)
			}
		}
	}
}

func TestRefusalThatNeverEndsDoesNotHoldTheReplay(t *testing.T) {
	for _, protocol := range protocols {
		replayed := make(chan struct{})
		url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if r.Header.Get("Authorization") == "Bearer new" {
				close(replayed)
				return
			}
			w.WriteHeader(401)
			http.NewResponseController(w).Flush()
			<-replayed
		})
		getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, postBody(t, url, strings.NewReader("body")), 200)
	}
}

func TestRefusalThatNeverEndsDelaysTheReplayByAtMost100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &transport.Auth{Source: oldThenNew, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer new" {
				return bodyAnswer(200, http.NoBody), nil
			}
			endless := newUntil()
			return &http.Response{StatusCode: 401, Body: endless}, nil
		})}
		began := time.Now()
		getsStatus(t, auth, postBody(t, "https://api.example", nil), 200)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the replay was delayed by %v, want at most 100ms", took)
		}
	})
}

func TestConnectionIsUsedAgainWhenTheRefusedBodyWasSent(t *testing.T) {
	stream := func(s string) *http.Request {
		return postBody(t, "http://x", io.MultiReader(strings.NewReader(s)))
	}
	sized := stream("body")
	sized.ContentLength = 4
	for name, template := range map[string]*http.Request{
		"no body": postBody(t, "http://x", nil), "GetBody": postBody(t, "http://x", strings.NewReader("body")),
		"stream": stream("body"), "stream with a length": sized,
	} {
		for _, protocol := range protocols {
			var connections atomic.Int32
			a := &bodyAPI{readFirst: wholeBody}
			url, base := serveOver(t, protocol, a.ServeHTTP)
			trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
				if !c.Reused {
					connections.Add(1)
				}
			}}
			for range 10 {
				req := postBody(t, url, nil).WithContext(httptrace.WithClientTrace(t.Context(), trace))
				req.GetBody, req.ContentLength = template.GetBody, template.ContentLength
				if template.Body != nil {
					req.Body = &bodyOf{Reader: strings.NewReader("body")}
				}
				getsStatus(t, &transport.Auth{Source: oldThenNew, Base: base}, req, 200)
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%s, %s: got %d connections, want 1", protocol, name, n)
			}
		}
	}
}

// lastByte is a body whose end comes only when it is let go: what a server that knows the
// Content-Length does not wait for.
type lastByte struct {
	io.Reader
	end chan struct{}
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err == io.EOF {
		<-l.end
	}
	return n, err
}

func TestConnectionIsUsedAgainWhenTheServerIsFasterThanTheEndOfTheBody(t *testing.T) {
	a := &bodyAPI{readFirst: wholeBody}
	url, base := serveOver(t, "HTTP/1.1", a.ServeHTTP)
	end := make(chan struct{})
	auth := &transport.Auth{Base: base, Source: tokensource.Func(
		func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if old != nil {
				close(end) // only now, while the first attempt is held
			}
			return oldThenNew(ctx, old)
		})}
	// More than the transport's buffer, so that the bytes leave before the end is known.
	req := postBody(t, url, &lastByte{strings.NewReader(strings.Repeat("x", 8*kib)), end})
	req.ContentLength = 8 * kib
	reused := false
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused },
	}))
	getsStatus(t, auth, req, 200)
	if !reused {
		t.Error("the replay went over another connection, want the same")
	}
}

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

// A closer counts how often it is told to close idle connections.
type closer struct {
	http.RoundTripper
	told atomic.Int32
}

func (c *closer) CloseIdleConnections() { c.told.Add(1) }

func TestCloseIdleConnectionsReachesABaseThatHasIt(t *testing.T) {
	base := new(closer)
	(&http.Client{Transport: &transport.Auth{Base: &transport.DPoP{Base: base}}}).CloseIdleConnections()
	if n := base.told.Load(); n != 1 {
		t.Errorf("the base was told %d times, want 1", n)
	}
	(&transport.Auth{Base: layer{base}}).CloseIdleConnections()
	if n := base.told.Load(); n != 2 {
		t.Errorf("through a layer the base was told %d times more, want 1", n-1)
	}
	(&transport.Auth{Base: roundTrip(nil)}).CloseIdleConnections() // has none
}

func TestTheLayerBelowIsTheBaseOrNetHTTPsOwn(t *testing.T) {
	base := new(http.Transport)
	for _, c := range []struct{ got, want http.RoundTripper }{
		{(&transport.Auth{Base: base}).WrappedRoundTripper(), base},
		{(&transport.DPoP{Base: base}).WrappedRoundTripper(), base},
		{new(transport.Auth).WrappedRoundTripper(), http.DefaultTransport},
		{new(transport.DPoP).WrappedRoundTripper(), http.DefaultTransport},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// A layer shows what is below it, and has no other method.
type layer struct{ http.RoundTripper }

func (l layer) WrappedRoundTripper() http.RoundTripper { return l.RoundTripper }

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

func TestUploadGoesThroughWhileAnotherHasTheWholeBudget(t *testing.T) {
	auth := &transport.Auth{Source: oldThenNew, MaxMemory: mib}
	stream := func() *http.Request {
		data, _ := noise(mib)
		return postBody(t, "https://api.example", io.MultiReader(data))
	}
	depth := 0
	auth.Base = roundTrip(func(req *http.Request) (*http.Response, error) {
		n, err := io.Copy(io.Discard, req.Body)
		if n != mib || err != nil {
			t.Errorf("the base read %d bytes and %v, want %d", n, err, mib)
		}
		if depth++; depth == 1 { // this one has the budget now
			if got := getsStatus(t, auth, stream(), 401); got != "untouched" {
				t.Errorf("another upload got %q, want %q", got, "untouched")
			}
		}
		if req.Header.Get("Authorization") == "Bearer old" {
			return bodyAnswer(401, strings.NewReader("untouched")), nil
		}
		return bodyAnswer(200, http.NoBody), nil
	})
	getsStatus(t, auth, stream(), 200)
}
