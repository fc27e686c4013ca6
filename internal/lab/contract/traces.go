package contract

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

var traces = []entry{
	{name: "the caller's httptrace sees each attempt once", run: traceSeesAttempts},
	{name: "the caller's httptrace sees 100 Continue", run: traceSeesContinue},
	{name: "the caller's httptrace sees 103 Early Hints", run: traceSeesHints},
	{name: "the caller's httptrace does not see token requests", run: traceIsTheCallers, tokens: true},
}

// events counts what a trace is told.
type events struct {
	mu sync.Mutex
	of map[string]int
}

func (t *events) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of[name]++
}

func (t *events) count(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[name]
}

// traced returns a request whose events are counted.
func traced(req *http.Request) (*http.Request, *events) {
	t := &events{of: make(map[string]int)}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { t.add("GotConn") },
		GotFirstResponseByte: func() { t.add("GotFirstResponseByte") },
		WroteHeaders:         func() { t.add("WroteHeaders") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { t.add("WroteRequest") },
		Wait100Continue:      func() { t.add("Wait100Continue") },
		Got100Continue:       func() { t.add("Got100Continue") },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			t.add(http.StatusText(code) + h.Get("Link"))
			return nil
		},
	})), t
}

func traceSeesAttempts(e *env) error {
	req, events := traced(e.request(http.MethodPost, strings.NewReader("hello")))
	_, err := do(e.rt, req)
	time.Sleep(time.Second)
	errs := []error{err}
	for _, name := range []string{"GotConn", "WroteHeaders", "WroteRequest", "GotFirstResponseByte"} {
		errs = append(errs, want(name, events.count(name), int(e.attempts.Load())))
	}
	return errors.Join(errs...)
}

func traceSeesContinue(e *env) error {
	req, _ := e.post(strings.NewReader("hello"))
	req.Header.Set("Expect", "100-continue")
	req, events := traced(req)
	_, err := do(e.rt, req)
	attempts := int(e.attempts.Load())
	continued := attempts
	if e.refusal == early {
		continued = 1 // the others were refused instead
	}
	return errors.Join(err, want("Wait100Continue", events.count("Wait100Continue"), attempts),
		want("Got100Continue", events.count("Got100Continue"), continued))
}

func traceSeesHints(e *env) error {
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
	}
	req, events := traced(e.request(http.MethodGet, nil))
	_, err := do(e.rt, req)
	return errors.Join(err, want("103", events.count("Early Hints</style.css>"), 1))
}

func traceIsTheCallers(e *env) error {
	e.fetching = func(ctx context.Context) {
		if trace := httptrace.ContextClientTrace(ctx); trace != nil {
			e.note(errors.New("the token is fetched with the caller's httptrace"))
		}
	}
	req, _ := traced(e.request(http.MethodGet, nil))
	_, err := do(e.rt, req)
	synctest.Wait()
	return err
}
