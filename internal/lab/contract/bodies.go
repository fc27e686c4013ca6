package contract

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"
)

var bodies = []entry{
	{name: "the body is closed once", run: bodyClosedOnce},
	{name: "the body is closed once, whatever the base does with it", run: bodyClosedOverBases},
	{name: "GetBody is called for each further attempt, and closed", run: getBodyCalled},
	{name: "nothing is read ahead", run: nothingReadAhead},
	{name: "an attempt that is given up does not look whole", run: givenUp, not: unlessEarly},
	{name: "the body waits for 100 Continue", run: bodyWaits},
	{name: "an answer need not wait for the body", run: answerBeforeBody},
	{name: "request and response flow at the same time", run: duplex, not: whenLate},
	{name: "a body of 3 MiB arrives whole both ways", run: largeBody},
	{name: "CONNECT opens a tunnel", run: tunnel, not: whenLate},
}

// A body counts what is done to it.
type body struct {
	io.Reader
	mu            sync.Mutex // guards what follows
	reads, closes int
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.reads++
	b.mu.Unlock()
	return b.Reader.Read(p)
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closes++
	return nil
}

// begun reports whether the body was read at all.
func (b *body) begun() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads > 0
}

// isClosed tells if it was not closed exactly once.
func (b *body) isClosed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return want("times that it was closed", b.closes, 1)
}

func (e *env) post(r io.Reader) (*http.Request, *body) {
	b := &body{Reader: r}
	req := e.request(http.MethodPost, nil)
	req.Body, req.ContentLength = b, -1
	return req, b
}

// handlers are ways to answer a request with a body.
var handlers = map[string]http.HandlerFunc{
	"reads it":         echo,
	"does not read it": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) },
	"reads a part":     func(w http.ResponseWriter, r *http.Request) { r.Body.Read(make([]byte, 10)) },
	"cuts the request": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	"answers and cuts": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "part"); panic(http.ErrAbortHandler) },
	"answers, goes on": func(w http.ResponseWriter, r *http.Request) { http.NewResponseController(w).Flush(); echo(w, r) },
}

func bodyClosedOnce(e *env) error {
	var errs []error
	for name, handler := range handlers {
		for _, size := range []int{0, 5, 300 << 10} {
			e.anew()
			e.handler = handler
			req, b := e.post(strings.NewReader(strings.Repeat("x", size)))
			do(e.rt, req)
			errs = append(errs, in(fmt.Sprintf("the server %s, %d bytes", name, size), b.isClosed()))
		}
	}
	e.anew()
	e.server.Close()
	req, b := e.post(strings.NewReader("hello"))
	_, err := do(e.rt, req)
	if err == nil {
		errs = append(errs, errors.New("no error without a server"))
	}
	return errors.Join(append(errs, in("no server", b.isClosed()))...)
}

var errBase = errors.New("the base fails")

// uses are what a base may do with a body.
var uses = map[string]func(io.ReadCloser) error{
	"reads and closes":           func(b io.ReadCloser) error { io.Copy(io.Discard, b); return b.Close() },
	"closes":                     func(b io.ReadCloser) error { return b.Close() },
	"goes on reading":            func(b io.ReadCloser) error { go func() { io.Copy(io.Discard, b); b.Close() }(); return nil },
	"closes and fails":           func(b io.ReadCloser) error { b.Close(); return errBase },
	"reads, closes and fails":    func(b io.ReadCloser) error { io.Copy(io.Discard, b); b.Close(); return errBase },
	"fails, and closes later on": func(b io.ReadCloser) error { go b.Close(); return errBase },
}

func bodyClosedOverBases(e *env) error {
	var errs []error
	for name, use := range uses {
		rt := e.over(func(req *http.Request) (*http.Response, error) {
			if err := use(req.Body); err != nil {
				return nil, err
			}
			return respond(req, http.StatusOK, nil, ""), nil
		})
		req, b := e.post(strings.NewReader("hello"))
		_, err := do(rt, req)
		if strings.Contains(name, "fails") != errors.Is(err, errBase) {
			errs = append(errs, fmt.Errorf("a base that %s: got the error %w", name, err))
		}
		errs = append(errs, in("a base that "+name, b.isClosed()))
	}
	return errors.Join(errs...)
}

func getBodyCalled(e *env) error {
	var mu sync.Mutex
	var made []*body
	e.handler = echo
	req := e.request(http.MethodPost, nil)
	getBody := func() (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		made = append(made, &body{Reader: strings.NewReader("hello")})
		return made[len(made)-1], nil
	}
	req.Body, _ = getBody()
	req.GetBody, req.ContentLength = getBody, 5
	a, err := do(e.rt, req)
	errs := []error{err, want("the answer", a.body, "hello"), want("bodies for the attempts", int32(len(made)), e.attempts.Load())}
	for i, b := range made {
		errs = append(errs, in(fmt.Sprint("body ", i), b.isClosed()))
	}
	return errors.Join(errs...)
}

func nothingReadAhead(e *env) error {
	var arrived atomic.Int32
	e.reached = func(r *http.Request) {
		arrived.Store(0)
		r.Body = &counted{r.Body, &arrived}
	}
	src, caller := e.pipe()
	req, _ := e.post(src)
	p := start(e.rt, req)
	rest := make(chan struct{})
	go func() {
		io.WriteString(caller, "first")
		<-rest
		io.WriteString(caller, ", rest")
		caller.Close()
	}()
	synctest.Wait()
	got := arrived.Load()
	close(rest)
	<-p.done.Done()
	if p.err != nil {
		return p.err
	}
	body, err := io.ReadAll(p.resp.Body)
	p.resp.Body.Close()
	return errors.Join(err, want("bytes at the server before the caller has the rest", got, 5),
		want("the answer", string(body), "first, rest"))
}

// givenUp has a base that goes on reading what it has refused: at once, so that a
// Read is in progress when the attempt is given up, or when that has happened.
func givenUp(e *env) error {
	var errs []error
	for _, atOnce := range []bool{true, false} {
		again := make(chan struct{})
		if atOnce {
			close(again)
		}
		goOn := func(body io.ReadCloser) {
			<-again
			n, err := io.Copy(io.Discard, body)
			body.Close()
			if err == nil && n < 10 {
				e.note(fmt.Errorf("at once: %v: the refused attempt ends after %d bytes of 10 as if it was whole", atOnce, n))
			}
		}
		rt := e.subject.New(roundTripper(func(req *http.Request) (*http.Response, error) {
			if headers := e.refusalOf(req); headers != nil {
				go goOn(req.Body)
				time.Sleep(time.Millisecond)
				return respond(req, http.StatusUnauthorized, headers, ""), nil
			}
			if !atOnce {
				close(again)
			}
			defer req.Body.Close()
			body, err := io.ReadAll(req.Body)
			return respond(req, http.StatusOK, nil, string(body)), err
		}), e.token)
		e.tokens.Store(0)
		errs = append(errs, e.upload(rt))
	}
	return errors.Join(errs...)
}

// upload sends a body of 10 bytes, the second half a second later.
func (e *env) upload(rt http.RoundTripper) error {
	src, caller := e.pipe()
	req, _ := e.post(src)
	p := begin(rt, req)
	io.WriteString(caller, "first")
	time.Sleep(time.Second)
	io.WriteString(caller, ", 2nd")
	caller.Close()
	<-p.done.Done()
	if p.err != nil {
		return p.err
	}
	defer p.resp.Body.Close()
	body, err := io.ReadAll(p.resp.Body)
	return errors.Join(err, want("the answer", string(body), "first, 2nd"))
}

func bodyWaits(e *env) error {
	req, b := e.post(strings.NewReader("hello"))
	req.Header.Set("Expect", "100-continue")
	e.reached = func(*http.Request) {
		if e.refusal != late || e.attempts.Load() == 1 {
			e.note(want("the body was read before the server wanted it", b.begun(), false))
		}
	}
	a, err := do(e.rt, req)
	return errors.Join(err, want("the answer", a.body, "hello"), b.isClosed())
}

func answerBeforeBody(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		http.NewResponseController(w).Flush()
		<-e.life.Done()
	}
	rest, caller := e.pipe()
	src := io.Reader(rest)
	if e.refusal == late {
		src = strings.NewReader("all")
	}
	req, b := e.post(src)
	resp, err := start(e.rt, req).response("the body")
	if err != nil {
		return err
	}
	caller.Close() // HTTP/2's Close waits for the caller's Read
	resp.Body.Close()
	settle()
	return errors.Join(want("the status", resp.StatusCode, http.StatusRequestEntityTooLarge), b.isClosed())
}

// counted counts the bytes that are read.
type counted struct {
	io.ReadCloser
	n *atomic.Int32
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int32(n))
	return n, err
}

// converse sends lines up the caller's pipe, and expects each to come back.
func converse(caller io.Writer, resp io.Reader) error {
	answers := bufio.NewReader(resp)
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if _, err := io.WriteString(caller, line); err != nil {
			return err
		}
		got, err := answers.ReadString('\n')
		if err != nil || got != line {
			return fmt.Errorf("got %q and %w, want %q", got, err, line)
		}
	}
	return nil
}

// flowing answers each part of the body as it comes.
func flowing(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	control.Flush()
	buf := make([]byte, 100)
	for {
		n, err := r.Body.Read(buf)
		w.Write(buf[:n])
		control.Flush()
		if err != nil {
			return
		}
	}
}

func duplex(e *env) error {
	e.handler = flowing
	src, caller := e.pipe()
	req, b := e.post(src)
	resp, err := start(e.rt, req).response("the body")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = converse(caller, resp.Body)
	caller.Close()
	rest, _ := io.ReadAll(resp.Body)
	synctest.Wait()
	return errors.Join(err, want("more", string(rest), ""), b.isClosed())
}

var threeMiB = strings.Repeat("0123456789abcdef", 3<<16)

// largeBody reads into memory that is large enough: to let it grow takes longer with the
// race detector than all the rest.
func largeBody(e *env) error {
	req, b := e.post(strings.NewReader(threeMiB))
	resp, err := e.rt.RoundTrip(req)
	if err != nil {
		return err
	}
	got := make([]byte, len(threeMiB)+1)
	n, end := io.ReadFull(resp.Body, got)
	resp.Body.Close()
	synctest.Wait()
	return errors.Join(want("the end of a shorter answer", end, io.ErrUnexpectedEOF),
		want("the answer is the body", string(got[:n]) == threeMiB, true), b.isClosed())
}

// hijack answers CONNECT, and an upgrade.
func (e *env) hijack(w http.ResponseWriter, head string) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	context.AfterFunc(e.life, func() { c.Close() })
	io.WriteString(c, head)
	io.Copy(c, buf)
}

func tunnel(e *env) error {
	e.handler = flowing
	if e.protocol == http1 {
		e.handler = func(w http.ResponseWriter, r *http.Request) { e.hijack(w, "HTTP/1.1 200 OK\r\n\r\n") }
	}
	src, caller := e.pipe()
	req, _ := e.post(src)
	req.Method, req.URL.Path, req.URL.RawQuery = http.MethodConnect, "", ""
	req.Host = "far.example:22"
	resp, err := start(e.rt, req).response("the body")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return converse(caller, resp.Body)
}
