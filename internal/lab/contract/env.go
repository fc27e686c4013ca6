package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// An env is what a case has in its bubble: the RoundTripper over an
// http.Transport, and the server at the other end.
type env struct {
	variant
	subject Subject
	ctx     context.Context // of the requests: ends a RoundTrip that would hang
	life    context.Context // of handlers and bodies: ends what does not heed ctx
	cancel  context.CancelFunc
	end     context.CancelFunc

	rt       http.RoundTripper
	base     http.RoundTripper // below rt
	bare     http.RoundTripper // to compare with
	network  *network
	server   Server
	handler  http.HandlerFunc      // answers what is not refused
	reached  func(r *http.Request) // is told of every request, before it is answered
	attempts atomic.Int32          // requests that reached the server or the scripted base
	refused  atomic.Int32          // how many of them were refused
	tokens   atomic.Int32          // tokens handed out
	fetching func(context.Context) // is called while a token is fetched

	mu    sync.Mutex // guards notes
	notes []error    // what handlers and bases have noticed
}

// accepted counts the attempts that were not refused.
func (e *env) accepted() int32 { return e.attempts.Load() - e.refused.Load() }

func newEnv(s Subject, v variant) *env {
	e := &env{variant: v, subject: s, network: newNetwork(), handler: echo}
	e.life, e.end = context.WithTimeout(context.Background(), 2*time.Minute)
	e.ctx, e.cancel = context.WithTimeout(e.life, time.Minute)
	if v.protocol == http3 {
		e.server = s.ServeHTTP3(e, e.network.dialed)
	} else {
		e.server = e.serve()
	}
	e.base, e.bare = e.server.Base(), e.server.Base()
	context.AfterFunc(e.life, e.server.Close)
	e.anew()
	return e
}

// serve starts a server of HTTP/1.1 or HTTP/2.
func (e *env) serve() Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(e.protocol == http1)
	protocols.SetUnencryptedHTTP2(e.protocol == http2)
	server := &http.Server{Handler: e, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(e.network)
	return Server{
		Base: func() http.RoundTripper {
			return &http.Transport{DialContext: e.network.dial, Protocols: protocols, ExpectContinueTimeout: time.Hour}
		},
		Close: func() { server.Close() },
	}
}

// anew makes the RoundTripper anew: what it sends next will be refused.
func (e *env) anew() {
	e.tokens.Store(0)
	e.rt = e.subject.New(e.base, e.token)
}

func (e *env) close() {
	e.cancel()
	synctest.Wait()
	e.end()
	synctest.Wait()
	for _, base := range []http.RoundTripper{e.base, e.bare} {
		(&http.Client{Transport: base}).CloseIdleConnections()
		if c, ok := base.(io.Closer); ok {
			c.Close()
		}
	}
	time.Sleep(time.Minute) // for what waits before it ends, as servers do
}

// ServeHTTP implements http.Handler.
func (e *env) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.attempts.Add(1)
	if e.reached != nil {
		e.reached(r)
	}
	http.NewResponseController(w).EnableFullDuplex() // else HTTP/1.1 would read the body before it answers
	headers := e.refusalOf(r)
	if headers == nil {
		e.handler(w, r)
		return
	}
	if e.refusal == late {
		io.Copy(io.Discard, r.Body)
	}
	maps.Copy(w.Header(), headers)
	w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(w, "refused")
	http.NewResponseController(w).Flush()
	io.Copy(io.Discard, r.Body) // else the server panics and closes the connection: golang/go#68560
}

// refusalOf returns the headers of the refusal, or nil.
func (e *env) refusalOf(r *http.Request) http.Header {
	if e.refusal == accepted {
		return nil
	}
	headers := e.subject.Refuses(r)
	if headers != nil {
		e.refused.Add(1)
	}
	return headers
}

func (e *env) token(ctx context.Context) (string, error) {
	n := e.tokens.Add(1)
	if e.fetching != nil {
		e.fetching(ctx)
	}
	return fmt.Sprint("token-", n), ctx.Err()
}

// A scripted base answers what is not refused with a function.
type scripted struct {
	env    *env
	answer func(*http.Request) (*http.Response, error)
}

// over makes the RoundTripper anew, over a base that answers with a function.
func (e *env) over(answer func(*http.Request) (*http.Response, error)) http.RoundTripper {
	e.tokens.Store(0)
	return e.subject.New(&scripted{e, answer}, e.token)
}

// RoundTrip implements http.RoundTripper.
func (s *scripted) RoundTrip(req *http.Request) (*http.Response, error) {
	s.env.attempts.Add(1)
	headers := s.env.refusalOf(req)
	if headers == nil {
		return s.answer(req)
	}
	if req.Body != nil {
		if s.env.refusal == late {
			io.Copy(io.Discard, req.Body)
		}
		req.Body.Close()
	}
	return respond(req, http.StatusUnauthorized, headers, "refused"), nil
}

func respond(req *http.Request, status int, headers http.Header, body string) *http.Response {
	if headers == nil {
		headers = make(http.Header)
	}
	return &http.Response{
		Status: fmt.Sprint(status, " ", http.StatusText(status)), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: headers.Clone(), ContentLength: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)), Request: req,
	}
}

// echo answers with the body of the request.
func echo(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }

// request makes a request, as http.NewRequest does.
func (e *env) request(method string, body io.Reader) *http.Request {
	url := "http://localhost/path?query"
	if e.protocol == http3 {
		url = "https" + strings.TrimPrefix(url, "http")
	}
	req, err := http.NewRequestWithContext(e.ctx, method, url, body)
	if err != nil {
		panic(err)
	}
	return req
}

// pipe returns a body that the case writes, and that ends with the case at the latest.
func (e *env) pipe() (*io.PipeReader, *io.PipeWriter) {
	r, w := io.Pipe()
	context.AfterFunc(e.life, func() { w.Close() })
	return r, w
}

// An answer is a response, its body read and closed.
type answer struct {
	*http.Response
	body string
}

// do sends a request, reads the answer to its end, and waits until nothing is
// left to do.
func do(rt http.RoundTripper, req *http.Request) (answer, error) {
	resp, err := rt.RoundTrip(req)
	switch {
	case err != nil && resp != nil:
		resp.Body.Close()
		synctest.Wait()
		return answer{}, fmt.Errorf("a response comes with the error %v", err)
	case err != nil:
		synctest.Wait()
		return answer{}, err
	case resp == nil:
		return answer{}, errors.New("neither a response nor an error")
	case resp.Body == nil:
		return answer{}, errors.New("the response has no Body")
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	synctest.Wait()
	return answer{resp, string(body)}, err
}

// A pending is a RoundTrip in progress.
type pending struct {
	done context.Context // has ended when RoundTrip has returned
	resp *http.Response
	err  error
}

// begin sends a request in a goroutine.
func begin(rt http.RoundTripper, req *http.Request) *pending {
	done, end := context.WithCancel(context.Background())
	p := &pending{done: done}
	go func() {
		defer end()
		p.resp, p.err = rt.RoundTrip(req)
	}()
	return p
}

// start sends a request, and returns when nothing goes on by itself any more.
func start(rt http.RoundTripper, req *http.Request) *pending {
	p := begin(rt, req)
	synctest.Wait()
	return p
}

// response returns what RoundTrip has returned. It fails if that waits for more.
func (p *pending) response(more string) (*http.Response, error) {
	if p.done.Err() == nil {
		return nil, errors.New("RoundTrip waits for " + more)
	}
	return p.resp, p.err
}

// note takes an error that the case itself cannot return.
func (e *env) note(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.notes = append(e.notes, err)
	}
}

// noted returns what was noted.
func (e *env) noted() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.notes...)
}

// sameFields compares the exported fields of two structs.
func sameFields(got, want any) error {
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	var errs []error
	for i := range g.NumField() {
		if a, b := g.Field(i).Interface(), w.Field(i).Interface(); !reflect.DeepEqual(a, b) {
			errs = append(errs, fmt.Errorf("%s: got %v, want %v", g.Type().Field(i).Name, a, b))
		}
	}
	return errors.Join(errs...)
}

func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}
