package contract_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/contract"
)

// A layer passes everything on to its base, but for what trip does.
type layer struct {
	base http.RoundTripper
	trip func(base http.RoundTripper, req *http.Request) (*http.Response, error)
}

func (l *layer) RoundTrip(req *http.Request) (*http.Response, error) { return l.trip(l.base, req) }
func (l *layer) CloseIdleConnections()                               { (&http.Client{Transport: l.base}).CloseIdleConnections() }

// sends changes a shallow copy of the request.
func sends(change func(*http.Request)) func(http.RoundTripper, *http.Request) (*http.Response, error) {
	return func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		out := *req
		out.Header = maps.Clone(req.Header)
		change(&out)
		resp, err := base.RoundTrip(&out)
		if err == nil {
			resp.Request = req
		}
		return resp, err
	}
}

// answers changes the response.
func answers(change func(*http.Response)) func(http.RoundTripper, *http.Request) (*http.Response, error) {
	return func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil {
			change(resp)
		}
		return resp, err
	}
}

// broken are RoundTrippers that break the contract in one way each, and the cases
// that must find it; all others must pass.
var broken = map[string]struct {
	trip  func(http.RoundTripper, *http.Request) (*http.Response, error)
	finds map[string]string
}{
	"changes the caller's header": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		req.Header.Set("X-Added", "by the layer")
		return base.RoundTrip(req)
	}, map[string]string{"the request stays as it was": "Header was changed"}},

	"writes behind the caller's header values": {sends(func(r *http.Request) {
		r.Header["X-Many"] = append(r.Header["X-Many"], "more")
	}), map[string]string{
		"the request stays as it was":                          "Header was changed",
		"the server sees the request that the base would send": "X-Many",
	}},

	"changes the caller's URL": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.URL != nil {
			req.URL.Fragment = ""
		}
		return base.RoundTrip(req)
	}, map[string]string{"the request stays as it was": "URL was changed"}},

	"leaves the body open when it fails by itself": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		if req.URL == nil {
			return nil, errors.New("no URL")
		}
		return base.RoundTrip(req)
	}, map[string]string{"a request without URL is an error": "closed: got 0, want 1"}},

	"closes the body twice": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil && req.Body != nil {
			req.Body.Close()
		}
		return resp, err
	}, map[string]string{
		"the body is closed once":                                 "closed: got 2, want 1",
		"the body is closed once, whatever the base does with it": "closed: got 2, want 1",
		"a request without URL is an error":                       "closed: got 2, want 1",
		"a request that the base can't send is an error":          "closed: got 2, want 1",
		"a request whose context has ended is not sent":           "closed: got 2, want 1",
		"cancelled while the body is sent":                        "closed: got 2, want 1",
		"cancelled while the answer is awaited":                   "closed: got 2, want 1",
	}},

	"returns a response with an error": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if errors.Unwrap(err) == nil && err != nil && err.Error() == "the base fails" {
			resp = &http.Response{Body: http.NoBody}
		}
		return resp, err
	}, map[string]string{
		"an error comes without a response":                       "want no response",
		"the body is closed once, whatever the base does with it": "a response comes with the error",
	}},

	"makes a new error of each": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("layer: %v", err)
		}
		return resp, err
	}, map[string]string{
		"an error comes without a response":                       "the base's error",
		"the body is closed once, whatever the base does with it": "got the error",
		"a request that the base can't send is an error":          "want the body's error",
		"a request whose context has ended is not sent":           "want context.Canceled",
		"cancelled while the body is sent":                        "want context.Canceled",
		"cancelled while the answer is awaited":                   "want context.Canceled",
		"one that is cancelled leaves the others alone":           "want context.Canceled",
	}},

	"copies the response and its trailers": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		out := *resp
		out.Trailer = resp.Trailer.Clone()
		return &out, nil
	}, map[string]string{"the response's trailers arrive": "the trailer: got , want 5"}},

	"copies the request's trailers": {sends(func(r *http.Request) { r.Trailer = r.Trailer.Clone() }), map[string]string{
		"the request's trailers arrive": "the trailer: got , want 5",
	}},

	"loses the context's values": {sends(func(r *http.Request) { *r = *r.WithContext(valueless{r.Context()}) }), map[string]string{
		"the context's values reach the base":           "got <nil>",
		"the caller's httptrace sees each attempt once": "GotConn: got 0",
		"the caller's httptrace sees 100 Continue":      "Got100Continue: got 0",
		"the caller's httptrace sees 103 Early Hints":   "103: got 0",
	}},

	"goes on when the context has ended": {sends(func(r *http.Request) { *r = *r.WithContext(context.WithoutCancel(r.Context())) }), map[string]string{
		"a request whose context has ended is not sent": "want context.Canceled",
		"cancelled while the body is sent":              "RoundTrip goes on",
		"cancelled while the answer is awaited":         "RoundTrip goes on",
		"cancelled while the response is read":          "want context.Canceled",
		"a deadline is a timeout, wherever it passes":   "waiting: got",
		"one that is cancelled leaves the others alone": "EOF",
	}},

	"reads the body ahead": {sends(func(r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			all, _ := io.ReadAll(r.Body)
			r.Body.Close()
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(all)))
		}
	}), contract.ReadsAhead(map[string]string{
		"a request that the base can't send is an error": "a body that fails: got <nil>",
	})},

	"reads the response ahead": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err != nil || resp.StatusCode == http.StatusSwitchingProtocols || resp.Body == nil {
			return resp, err
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(all))
		return resp, nil
	}, map[string]string{
		"an answer need not wait for the body":       "waits for the body",
		"request and response flow at the same time": "waits for the body",
		"CONNECT opens a tunnel":                     "waits for the body",
		"the response streams":                       "waits for the whole response",
		"closing the response ends the request":      "deadline exceeded",
		"a response that is cut short is an error":   "there is no response",
		"cancelled while the response is read":       "deadline exceeded",
	}},

	"hides the connection of a 101": {answers(func(resp *http.Response) {
		if resp.StatusCode == http.StatusSwitchingProtocols {
			resp.Body = io.NopCloser(resp.Body)
		}
	}), map[string]string{"101 gives a connection": "want 101 and an io.ReadWriteCloser"}},

	"ends the response when it is cut short": {answers(func(resp *http.Response) {
		if resp.StatusCode != http.StatusSwitchingProtocols && resp.Body != nil {
			resp.Body = forgiving{resp.Body}
		}
	}), map[string]string{"a response that is cut short is an error": "as the whole body"}},

	"forgets that a response may lack a Body": {answers(func(resp *http.Response) {
		if resp.StatusCode != http.StatusSwitchingProtocols {
			resp.Body = struct{ io.ReadCloser }{resp.Body}
		}
	}), map[string]string{"a response of the base without Body does no harm": "nil pointer"}},

	"sends again when the server fails": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil && resp.StatusCode == http.StatusServiceUnavailable && req.GetBody != nil {
			resp.Body.Close()
			again := *req
			again.Body, _ = req.GetBody()
			return base.RoundTrip(&again)
		}
		return resp, err
	}, map[string]string{"every status is a response": "503: attempts, without those refused: got 2, want 1"}},

	"makes errors of statuses": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil && resp.StatusCode >= 500 {
			resp.Body.Close()
			return nil, errors.New(resp.Status)
		}
		return resp, err
	}, map[string]string{"every status is a response": "500: 500 Internal Server Error"}},

	"follows redirects by itself": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if err == nil && resp.StatusCode == http.StatusTemporaryRedirect && req.GetBody != nil {
			resp.Body.Close()
			next := *req
			next.URL, _ = req.URL.Parse(resp.Header.Get("Location"))
			next.Body, _ = req.GetBody()
			return base.RoundTrip(&next)
		}
		return resp, err
	}, map[string]string{
		"every status is a response":                       "307: attempts, without those refused: got 2, want 1",
		"http.Client that follows no redirects gets them":  "the status: got 303, want 307",
		"http.Client follows redirects, and keeps cookies": "the server saw",
	}},

	"asks for gzip and leaves it": {sends(func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") }), map[string]string{
		"gzip is decompressed, unless the caller does that":    "Uncompressed: got false",
		"the server sees the request that the base would send": "Accept-Encoding",
	}},

	"never uses a connection again": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req)
		if c, ok := base.(*http.Transport); ok {
			time.AfterFunc(0, c.CloseIdleConnections)
		}
		return resp, err
	}, map[string]string{
		"connections are used again":            "got 5 connections",
		"CloseIdleConnections reaches the base": "idle connections: got false",
		"a stale connection goes unnoticed":     "closed pipe",
	}},

	"does not pass CloseIdleConnections on": {nil, map[string]string{
		"CloseIdleConnections reaches the base": "connections left: got 1, want 0",
	}},

	"loses GetBody": {sends(func(r *http.Request) { r.GetBody = nil }), map[string]string{
		"a stale connection goes unnoticed": "closed pipe",
	}},

	"answers for another request": {func(base http.RoundTripper, req *http.Request) (*http.Response, error) {
		resp, err := base.RoundTrip(req.Clone(req.Context()))
		return resp, err
	}, map[string]string{
		"the response's Request is the caller's": "it is another",
		"the request's trailers arrive":          "the trailer: got , want 5",
	}},

	"makes an error of a panic": {func(base http.RoundTripper, req *http.Request) (resp *http.Response, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		return base.RoundTrip(req)
	}, map[string]string{"a panic of the base reaches the caller": "the panic: got <nil>"}},
}

func TestRunFindsWhatIsBroken(t *testing.T) {
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			contract.Run(t, contract.Subject{
				New: func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper {
					if b.trip == nil {
						return struct{ http.RoundTripper }{base}
					}
					return &layer{base, b.trip}
				},
				Breaks: b.finds,
			})
		})
	}
}

// An unfailing body ends where it would fail.
type unfailing struct{ io.ReadCloser }

func (e unfailing) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

type valueless struct{ context.Context }

func (valueless) Value(any) any { return nil }

type forgiving struct{ io.ReadCloser }

func (f forgiving) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// A mixer is not made for concurrent use: it has one response at a time.
type mixer struct {
	base http.RoundTripper
	mu   sync.Mutex
	last io.Reader
}

func (m *mixer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.base.RoundTrip(req)
	if err != nil || resp.Body == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{m, resp.Body}
	return resp, nil
}

func (m *mixer) Read(p []byte) (int, error) {
	m.mu.Lock()
	last := m.last
	m.mu.Unlock()
	return last.Read(p)
}

func (m *mixer) CloseIdleConnections() { (&http.Client{Transport: m.base}).CloseIdleConnections() }

func TestRunFindsWhatIsNotForConcurrentUse(t *testing.T) {
	contract.Run(t, contract.Subject{
		New:    func(base http.RoundTripper, _ contract.TokenFunc) http.RoundTripper { return &mixer{base: base} },
		Breaks: map[string]string{"many requests at once get their own answers": "the answer: got"},
	})
}
