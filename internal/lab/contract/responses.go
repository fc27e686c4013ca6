package contract

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

var responses = []entry{
	{name: "every status is a response", run: everyStatus},
	{name: "the response's Request is the caller's", run: responseRequest},
	{name: "an error comes without a response", run: errorAlone},
	{name: "every response has a Body", run: everyBody},
	{name: "a response of the base without Body does no harm", run: nilBody},
	{name: "every response of the base is closed", run: responsesClosed},
	{name: "the response's trailers arrive", run: responseTrailers},
	{name: "the response streams", run: responseStreams},
	{name: "closing the response ends the request", run: closeEnds},
	{name: "a response that is cut short is an error", run: cutShort},
	{name: "gzip is decompressed, unless the caller does that", run: gzipped},
	{name: "101 gives a connection", run: upgrade, not: unlessHTTP1},
	{name: "a panic of the base reaches the caller", run: basePanics},
}

// statuses that might tempt a RoundTripper to act.
var statuses = []int{200, 201, 204, 206, 301, 302, 303, 304, 307, 308, 400, 403, 404, 407, 408, 409, 413, 421, 425, 429, 500, 501, 502, 503, 504}

func everyStatus(e *env) error {
	var errs []error
	for _, status := range statuses {
		e.handler = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Retry-After", "1")
			w.Header().Add("Set-Cookie", "a=b")
			w.Header()["X-Many"] = []string{"b", "a"}
			w.WriteHeader(status)
			io.WriteString(w, http.StatusText(status))
		}
		req := e.request(http.MethodPost, strings.NewReader("hello"))
		base, err := do(e.bare, req)
		if err != nil {
			return fmt.Errorf("%d: the base itself fails: %w", status, err)
		}
		e.anew()
		before := e.accepted()
		got, err := do(e.rt, e.request(http.MethodPost, strings.NewReader("hello")))
		if err == nil {
			err = sameFields(got.result(), base.result())
		}
		attempts := want("attempts, without those refused", e.accepted()-before, 1)
		errs = append(errs, in(fmt.Sprint(status), errors.Join(err, attempts)))
	}
	return errors.Join(errs...)
}

// A result is what a caller sees of a response.
type result struct {
	Proto, Status    string
	Header, Trailer  http.Header
	ContentLength    int64
	TransferEncoding []string
	Close            bool
	Uncompressed     bool
	Body             string
}

func (a answer) result() result {
	header := a.Header.Clone()
	header.Del("Date")
	return result{a.Proto, a.Status, header, a.Trailer, a.ContentLength, a.TransferEncoding, a.Close, a.Uncompressed, a.body}
}

func responseRequest(e *env) error {
	req := e.request(http.MethodPost, strings.NewReader("hello"))
	a, err := do(e.rt, req)
	if err != nil {
		return err
	}
	if a.Request != req {
		return fmt.Errorf("it is another: %p, want %p", a.Request, req)
	}
	return nil
}

func errorAlone(e *env) error {
	rt := e.over(func(*http.Request) (*http.Response, error) { return nil, errBase })
	resp, err := rt.RoundTrip(e.request(http.MethodGet, nil))
	if resp != nil || !errors.Is(err, errBase) {
		return fmt.Errorf("got %v and the error %w, want no response and the base's error", resp, err)
	}
	return nil
}

func everyBody(e *env) error {
	var errs []error
	for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodPost} {
		for _, status := range []int{200, 204, 304, 404} {
			e.handler = func(w http.ResponseWriter, r *http.Request) {
				if status == 200 {
					w.Header().Set("Content-Length", "0")
					if r.Method == http.MethodHead {
						w.Header().Set("Content-Length", "1000")
					}
				}
				w.WriteHeader(status)
			}
			e.anew()
			base, err := do(e.bare, e.request(method, nil))
			if err != nil {
				return fmt.Errorf("the base itself fails: %w", err)
			}
			got, err := do(e.rt, e.request(method, nil))
			if err == nil {
				err = sameFields(got.result(), base.result())
			}
			errs = append(errs, in(fmt.Sprint(method, " ", status), err))
		}
	}
	return errors.Join(errs...)
}

// nilBody goes through http.Client, which gives such a response a Body.
func nilBody(e *env) error {
	rt := e.subject.New(roundTripper(func(req *http.Request) (*http.Response, error) {
		resp := respond(req, http.StatusOK, e.refusalOf(req), "")
		if len(resp.Header) > 0 {
			resp.StatusCode = http.StatusUnauthorized
		}
		resp.Body = nil
		return resp, nil
	}), e.token)
	resp, err := (&http.Client{Transport: rt}).Do(e.request(http.MethodGet, nil))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return errors.Join(err, want("the status", resp.StatusCode, 200), want("the body", string(body), ""))
}

func responsesClosed(e *env) error {
	var all []*body
	rt := e.subject.New(roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := (&scripted{e, func(req *http.Request) (*http.Response, error) {
			return respond(req, http.StatusOK, nil, "hello"), nil
		}}).RoundTrip(req)
		b := &body{Reader: resp.Body}
		all, resp.Body = append(all, b), b
		return resp, err
	}), e.token)
	req, _ := e.post(strings.NewReader("hello"))
	_, err := do(rt, req)
	errs := []error{err}
	for i, b := range all {
		errs = append(errs, in(fmt.Sprint("response ", i+1), b.isClosed()))
	}
	return errors.Join(errs...)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func responseTrailers(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "hello")
		w.Header().Set("X-Sum", "5")
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	}
	a, err := do(e.rt, e.request(http.MethodGet, nil))
	if err != nil {
		return err
	}
	return errors.Join(want("the trailer", a.Trailer.Get("X-Sum"), "5"),
		want("the trailer that was not announced", a.Trailer.Get("X-Late"), "unannounced"))
}

func responseStreams(e *env) error {
	more := make(chan struct{})
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first")
		http.NewResponseController(w).Flush()
		<-more
		io.WriteString(w, ", rest")
	}
	release := sync.OnceFunc(func() { close(more) })
	defer release()
	resp, err := start(e.rt, e.request(http.MethodGet, nil)).response("the whole response")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	first := make([]byte, 5)
	_, err = io.ReadFull(resp.Body, first)
	release()
	rest, err2 := io.ReadAll(resp.Body)
	return errors.Join(err, err2, want("the body", string(first)+string(rest), "first, rest"))
}

func closeEnds(e *env) error {
	ended := false
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended = true
	}
	resp, err := e.rt.RoundTrip(e.request(http.MethodGet, nil))
	if err != nil {
		return err
	}
	err = resp.Body.Close()
	settle()
	return errors.Join(err, want("the request has ended at the server", ended, true))
}

// settle waits for the end of a request whose response was closed: net/http of Go 1.27 first reads on for 50 ms.
func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

func cutShort(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "hello")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	resp, err := e.rt.RoundTrip(e.request(http.MethodGet, nil))
	if err != nil {
		return fmt.Errorf("there is no response, but %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		return fmt.Errorf("got %q as the whole body, want an error", body)
	}
	return want("the part that came", string(body), "hello")
}

func gzipped(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			io.WriteString(z, "hello")
		}
	}
	a, err := do(e.rt, e.request(http.MethodGet, nil))
	if err != nil {
		return err
	}
	req := e.request(http.MethodGet, nil)
	req.Header.Set("Accept-Encoding", "gzip")
	raw, err := do(e.rt, req)
	if err != nil {
		return err
	}
	return errors.Join(want("the body", a.body, "hello"), want("Uncompressed", a.Uncompressed, true),
		want("the caller's own gzip is left", strings.HasPrefix(raw.body, "\x1f\x8b"), true))
}

func upgrade(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		e.hijack(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	}
	req := e.request(http.MethodGet, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := e.rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		return fmt.Errorf("got status %d and a %T, want 101 and an io.ReadWriteCloser", resp.StatusCode, resp.Body)
	}
	return converse(conn, conn)
}

func basePanics(e *env) error {
	calm := false
	rt := e.over(func(req *http.Request) (*http.Response, error) {
		if !calm {
			panic(errBase)
		}
		return respond(req, http.StatusOK, nil, "calm"), nil
	})
	got := func() (p any) {
		defer func() { p = recover() }()
		rt.RoundTrip(e.request(http.MethodGet, nil))
		return nil
	}()
	calm = true
	a, err := do(rt, e.request(http.MethodGet, nil))
	return errors.Join(err, want("the panic", got, any(errBase)), want("the next answer", a.body, "calm"))
}
