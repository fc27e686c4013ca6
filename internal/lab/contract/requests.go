package contract

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing/iotest"
	"time"
)

var requests = []entry{
	{name: "the request stays as it was", run: requestStays},
	{name: "the server sees the request that the base would send", run: requestArrives},
	{name: "an opaque URL arrives", run: opaqueArrives},
	{name: "the request's trailers arrive", run: trailersArrive},
	{name: "a request that the base can't send is an error", run: badRequestFails, not: whenRefused},
	{name: "a request without URL is an error", run: noURL, not: whenRefused},
	{name: "a request may be used again once the response is closed", run: requestUsedAgain},
	{name: "the context's values reach the base", run: valuesReachBase},
	{name: "a stale connection goes unnoticed", run: staleConnection, not: unlessHTTP1},
	{name: "connections are used again", run: connectionsUsedAgain},
}

// A shape is a way to write a request.
type shape struct {
	name string
	make func(*http.Request)
}

// plain hides what net/http knows of a reader.
func plain(s string) io.ReadCloser { return io.NopCloser(io.MultiReader(strings.NewReader(s))) }

var shapes = []shape{
	{"GET", func(r *http.Request) {}},
	{"GET without method", func(r *http.Request) { r.Method = "" }},
	{"GET with NoBody", func(r *http.Request) { r.Body = http.NoBody }},
	{"GET with a body", func(r *http.Request) { r.Body, r.ContentLength = plain("hello"), 5 }},
	{"GET with a body of unknown length", func(r *http.Request) { r.Body, r.ContentLength = plain("hello"), -1 }},
	{"HEAD", func(r *http.Request) { r.Method = http.MethodHead }},
	{"OPTIONS", func(r *http.Request) { r.Method = http.MethodOptions }},
	{"a method of one's own", func(r *http.Request) { r.Method = "FROB" }},
	{"POST without body", func(r *http.Request) { r.Method = http.MethodPost }},
	{"POST with NoBody", func(r *http.Request) { r.Method, r.Body = http.MethodPost, http.NoBody }},
	{"POST with GetBody", func(r *http.Request) {
		r.Method, r.ContentLength = http.MethodPost, 5
		r.GetBody = func() (io.ReadCloser, error) { return plain("hello"), nil }
		r.Body, _ = r.GetBody()
	}},
	{"POST of known length", func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodPost, plain("hello"), 5 }},
	{"POST of length -1", func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodPost, plain("hello"), -1 }},
	{"POST of length 0 with a body", func(r *http.Request) { r.Method, r.Body = http.MethodPost, plain("hello") }},
	{"POST of length 0 with an empty body", func(r *http.Request) { r.Method, r.Body = http.MethodPost, plain("") }},
	{"POST of length -1 with an empty body", func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodPost, plain(""), -1 }},
	{"DELETE of length 0 with an empty body", func(r *http.Request) { r.Method, r.Body = http.MethodDelete, plain("") }},
	{"PUT of 300 KiB", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = http.MethodPut, plain(strings.Repeat("0123456789abcdef", 300<<6)), 300<<10
	}},
	{"POST byte by byte", func(r *http.Request) {
		r.Method, r.ContentLength = http.MethodPost, 5
		r.Body = io.NopCloser(iotest.OneByteReader(strings.NewReader("hello")))
	}},
	{"POST whose last byte comes with EOF", func(r *http.Request) {
		r.Method, r.ContentLength = http.MethodPost, 5
		r.Body = io.NopCloser(iotest.DataErrReader(strings.NewReader("hello")))
	}},
	{"chunked with a length", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength, r.TransferEncoding = http.MethodPost, plain("hello"), 5, []string{"chunked"}
	}},
	{"identity", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength, r.TransferEncoding = http.MethodPost, plain("hello"), 5, []string{"identity"}
	}},
	{"Host", func(r *http.Request) { r.Host = "other.example:81" }},
	{"Close", func(r *http.Request) { r.Close = true }},
	{"escaped path", func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a/b c", "/a%2Fb%20c" }},
	{"no path, empty query, fragment", func(r *http.Request) {
		r.URL = &url.URL{Scheme: r.URL.Scheme, Host: "localhost", ForceQuery: true, Fragment: "part"}
	}},
	{"headers", func(r *http.Request) {
		r.Header["X-Many"] = append(make([]string, 0, 4), "b", "a", "b")
		r.Header["X-Empty"] = []string{""}
		r.Header["X-Nil"] = nil
		r.Header["x-lower"] = []string{"l"}
		r.Header["User-Agent"] = []string{""}
		r.Header["Accept-Encoding"] = []string{"identity"}
		r.Header["Cookie"] = []string{"a=b; c=d"}
	}},
	{"a trailer", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = http.MethodPost, plain("hello"), -1
		r.Trailer = http.Header{"X-Sum": {"5"}}
	}},
	{"Expect", func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = http.MethodPost, plain("hello"), 5
		r.Header.Set("Expect", "100-continue")
	}},
}

func (s shape) request(e *env) *http.Request {
	req := e.request(http.MethodGet, nil)
	s.make(req)
	return req
}

// A picture is a request, and a copy of what it refers to.
type picture struct {
	request http.Request
	url     url.URL
	header  http.Header
	trailer http.Header
}

func pictureOf(r *http.Request) picture {
	return picture{*r, *r.URL, wholly(r.Header), wholly(r.Trailer)}
}

// wholly copies a header, and what its slices have room for.
func wholly(h http.Header) http.Header {
	h = maps.Clone(h)
	for k, v := range h {
		h[k] = slices.Clone(v[:cap(v)])
	}
	return h
}

// differs tells what has changed since.
func (p picture) differs(r *http.Request) error {
	then, now := reflect.ValueOf(p.request), reflect.ValueOf(*r)
	for i := range then.NumField() {
		if a, b := then.Field(i), now.Field(i); !sameValue(a, b) {
			return fmt.Errorf("the request's %s was changed", then.Type().Field(i).Name)
		}
	}
	if *r.URL != p.url {
		return fmt.Errorf("the request's URL was changed from %v to %v", &p.url, r.URL)
	}
	return errors.Join(sameHeader("Header", r.Header, p.header), sameHeader("Trailer", r.Trailer, p.trailer))
}

// sameValue compares shallowly: maps, functions and slices as references.
func sameValue(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Map, reflect.Func:
		return a.UnsafePointer() == b.UnsafePointer()
	case reflect.Slice:
		return a.UnsafePointer() == b.UnsafePointer() && a.Len() == b.Len()
	default:
		return a.Equal(b)
	}
}

func sameHeader(name string, got, want http.Header) error {
	if got := wholly(got); !reflect.DeepEqual(got, want) {
		return fmt.Errorf("the request's %s was changed: got %q, want %q", name, got, want)
	}
	return nil
}

func requestStays(e *env) error {
	var errs []error
	for _, s := range shapes {
		e.anew()
		req := s.request(e)
		before := pictureOf(req)
		_, err := do(e.rt, req)
		if changed := before.differs(req); changed != nil {
			err = changed
		}
		errs = append(errs, in(s.name, err))
	}
	return errors.Join(errs...)
}

// in says where an error comes from.
func in(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// An arrival is what a server sees of a request.
type arrival struct {
	Method, URI, Host, Proto string
	Header                   http.Header
	ContentLength            int64
	TransferEncoding         []string
	Close                    bool
	Length                   int
	Sum                      string // of the body
}

// arrival sends a request and returns what arrived.
func (e *env) arrival(rt http.RoundTripper, req *http.Request) (seen arrival, err error) {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		e.note(err)
		seen = arrival{
			r.Method, r.RequestURI, r.Host, r.Proto, r.Header.Clone(), r.ContentLength, r.TransferEncoding, r.Close,
			len(body), fmt.Sprintf("%x", sha256.Sum256(body)),
		}
	}
	_, err = do(rt, req)
	return seen, err
}

func requestArrives(e *env) error {
	var errs []error
	for _, s := range shapes {
		e.anew()
		bare, err := e.arrival(e.bare, s.request(e))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: the base itself fails: %w", s.name, err))
			continue
		}
		got, err := e.arrival(e.rt, s.request(e))
		if err == nil {
			err = got.differs(bare)
		}
		errs = append(errs, in(s.name, err))
	}
	return errors.Join(errs...)
}

// differs tells what is not as the bare base does it. Headers may have been added.
func (a arrival) differs(bare arrival) error {
	var errs []error
	for name, values := range bare.Header {
		if got := a.Header[name]; !slices.Equal(got, values) {
			errs = append(errs, fmt.Errorf("%s: got %q, want %q", name, got, values))
		}
	}
	a.Header, bare.Header = nil, nil
	return errors.Join(append(errs, sameFields(a, bare))...)
}

func opaqueArrives(e *env) error {
	opaque := func() *http.Request {
		req := e.request(http.MethodGet, nil)
		req.URL = &url.URL{Scheme: req.URL.Scheme, Host: "localhost", Opaque: "//localhost/a%2Fb"}
		return req
	}
	bare, err := e.arrival(e.bare, opaque())
	if err != nil {
		return fmt.Errorf("the base itself fails: %w", err)
	}
	got, err := e.arrival(e.rt, opaque())
	if err != nil {
		return err
	}
	return got.differs(bare)
}

func trailersArrive(e *env) error {
	var got string
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		got = r.Trailer.Get("X-Sum")
	}
	req := e.request(http.MethodPost, nil)
	req.Trailer = http.Header{"X-Sum": nil}
	atEnd := readerFunc(func([]byte) (int, error) { req.Trailer.Set("X-Sum", "5"); return 0, io.EOF })
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("hello"), atEnd))
	_, err := do(e.rt, req)
	return errors.Join(err, want("the trailer", got, "5"))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// badShapes are refused by http.Transport.
var badShapes = []shape{
	{"a body shorter than its length", func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodPost, plain("hello"), 6 }},
	{"a body that fails", func(r *http.Request) {
		r.Method, r.ContentLength = http.MethodPost, -1
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("hello"), iotest.ErrReader(errBody)))
	}},
	{"a bad header", func(r *http.Request) { r.Header.Set("X-Bad", "a\nb") }},
	{"a bad method", func(r *http.Request) { r.Method = "BAD METHOD" }},
	{"a URL without host", func(r *http.Request) { r.URL.Host = "" }},
	{"a scheme that nobody knows", func(r *http.Request) { r.URL.Scheme = "gopher" }},
}

var errBody = errors.New("the body fails")

func badRequestFails(e *env) error {
	var errs []error
	for _, s := range badShapes {
		_, base := do(e.bare, s.request(e))
		req := s.request(e)
		b := &body{Reader: strings.NewReader("unread")}
		if req.Body != nil {
			b.Reader = req.Body
		}
		req.Body = b
		_, err := do(e.rt, req)
		switch {
		case (err == nil) != (base == nil):
			errs = append(errs, fmt.Errorf("%s: got %v, where the base itself returns %v", s.name, err, base))
		case s.name == "a body that fails" && !errors.Is(err, errBody):
			errs = append(errs, fmt.Errorf("%s: got %w, want the body's error", s.name, err))
		default:
			errs = append(errs, in(s.name, b.isClosed()))
		}
	}
	return errors.Join(errs...)
}

func noURL(e *env) error {
	req, b := e.post(strings.NewReader("unread"))
	req.URL = nil
	if _, err := do(e.rt, req); err == nil {
		return errors.New("no error")
	}
	return b.isClosed()
}

func requestUsedAgain(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, r.URL.Path, r.Header.Get("X-N"), " ")
		io.Copy(w, r.Body)
	}
	req := e.request(http.MethodPost, nil)
	var errs []error
	for n, method := range []string{"POST", "PUT", "PATCH"} {
		req.Method, req.URL.Path, req.Body, req.ContentLength = method, fmt.Sprint("/", n), plain("hello"), 5
		req.Header.Set("X-N", fmt.Sprint(n))
		a, err := do(e.rt, req)
		errs = append(errs, err, want("the answer", a.body, fmt.Sprintf("%s/%d%d hello", method, n, n)))
	}
	return errors.Join(errs...)
}

func valuesReachBase(e *env) error {
	type key struct{}
	rt := e.over(func(req *http.Request) (*http.Response, error) {
		e.note(want("the context's value", req.Context().Value(key{}), any("value")))
		return respond(req, http.StatusOK, nil, ""), nil
	})
	req := e.request(http.MethodGet, nil)
	_, err := do(rt, req.WithContext(context.WithValue(req.Context(), key{}, "value")))
	return err
}

func staleConnection(e *env) error {
	var errs []error
	for range 2 {
		req := e.request(http.MethodPost, strings.NewReader("hello"))
		a, err := do(e.rt, req)
		errs = append(errs, err, want("the answer", a.body, "hello"))
		e.anew()
		e.network.stale.Store(true)
	}
	return errors.Join(errs...)
}

func connectionsUsedAgain(e *env) error {
	e.reached = func(*http.Request) { time.Sleep(time.Millisecond) } // net/http keeps a new connection only after it has given it out
	var errs []error
	for range 5 {
		req := e.request(http.MethodPost, nil)
		req.Body, req.ContentLength = plain("hello"), 5
		_, err := do(e.rt, req)
		errs = append(errs, err)
	}
	limit := int32(1)
	if e.refusal == early {
		limit += e.attempts.Load() - 5 // what was refused may not have been sent to the end
	}
	if got := e.network.dials.Load(); got > limit {
		errs = append(errs, fmt.Errorf("got %d connections for 5 requests in turn, want at most %d", got, limit))
	}
	return errors.Join(errs...)
}
