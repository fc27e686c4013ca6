package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing/synctest"
	"time"
)

var contexts = []entry{
	{name: "a request whose context has ended is not sent", run: endedBefore},
	{name: "cancelled while the body is sent", run: cancelledSending},
	{name: "cancelled while the answer is awaited", run: cancelledWaiting},
	{name: "cancelled while the token is fetched", run: cancelledFetching, tokens: true},
	{name: "cancelled while the response is read", run: cancelledReading},
	{name: "a deadline is a timeout, wherever it passes", run: deadlines},
	{name: "the timeout of http.Client is a timeout, wherever it passes", run: clientTimeouts},
	{name: "one that is cancelled leaves the others alone", run: othersGoOn},
}

func endedBefore(e *env) error {
	req, b := e.post(strings.NewReader("hello"))
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, err := do(e.rt, req.WithContext(ctx))
	return errors.Join(isCancelled(err), want("attempts", e.attempts.Load(), 0), b.isClosed())
}

func isCancelled(err error) error {
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("got %v, want context.Canceled", err)
	}
	return nil
}

// hang answers nothing.
func (e *env) hang(http.ResponseWriter, *http.Request) { <-e.life.Done() }

// hangWithin answers a part.
func (e *env) hangWithin(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "part")
	http.NewResponseController(w).Flush()
	<-e.life.Done()
}

// cancelDuring cancels a request as soon as it waits, does what else must be
// done, and returns its error.
func (e *env) cancelDuring(req *http.Request, also func()) error {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	p := start(e.rt, req.WithContext(ctx))
	if p.done.Err() != nil {
		return fmt.Errorf("RoundTrip has returned already, with %v and %v", p.resp, p.err)
	}
	cancel()
	synctest.Wait()
	if also != nil {
		also()
		synctest.Wait()
	}
	if p.done.Err() == nil {
		return errors.New("RoundTrip goes on")
	}
	if p.err == nil {
		p.resp.Body.Close()
		return errors.New("RoundTrip goes on, and succeeds")
	}
	return isCancelled(p.err)
}

func cancelledSending(e *env) error {
	src, caller := e.pipe()
	req, b := e.post(io.MultiReader(strings.NewReader("first"), src))
	stop := func() { caller.Close() }
	if e.protocol != http1 {
		stop = nil // HTTP/1.1 waits for the caller's Read
	}
	err := e.cancelDuring(req, stop)
	caller.Close()
	synctest.Wait()
	return errors.Join(err, b.isClosed())
}

func cancelledWaiting(e *env) error {
	e.handler = e.hang
	req, b := e.post(strings.NewReader("hello"))
	return errors.Join(e.cancelDuring(req, nil), b.isClosed())
}

// slowly makes the token that matters in this variant hang, until its context ends.
func (e *env) slowly(ctx context.Context) {
	if e.refusal == accepted || e.tokens.Load() > 1 {
		<-ctx.Done()
	}
}

func cancelledFetching(e *env) error {
	e.fetching = e.slowly
	req, b := e.post(strings.NewReader("hello"))
	return errors.Join(e.cancelDuring(req, nil), b.isClosed())
}

func cancelledReading(e *env) error {
	e.handler = e.hangWithin
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	resp, err := e.rt.RoundTrip(e.request(http.MethodGet, nil).WithContext(ctx))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 4))
	cancel()
	_, cut := resp.Body.Read(make([]byte, 4))
	return errors.Join(err, isCancelled(cut))
}

// waits are where a request may take more than 5 s.
var waits = map[string]func(e *env, req *http.Request){
	"sending": func(e *env, req *http.Request) {
		src, caller := e.pipe()
		time.AfterFunc(6*time.Second, func() { caller.CloseWithError(errBody) }) // HTTP/1.1 waits for the caller's Read
		req.Method, req.Body, req.ContentLength = http.MethodPost, src, -1
	},
	"waiting":  func(e *env, _ *http.Request) { e.handler = e.hang },
	"fetching": func(e *env, _ *http.Request) { e.fetching = e.slowly },
	"reading":  func(e *env, _ *http.Request) { e.handler = e.hangWithin },
}

// duringEach sends a request for each of the waits, and returns their errors.
func (e *env) duringEach(send func(*http.Request) error) error {
	var errs []error
	for name, wait := range waits {
		if name == "fetching" && !e.subject.Tokens {
			continue
		}
		e.anew()
		e.handler, e.fetching = echo, nil
		req := e.request(http.MethodGet, nil)
		ctx, cancel := context.WithCancel(e.ctx)
		req = req.WithContext(ctx)
		wait(e, req)
		errs = append(errs, in(name, isTimeout(send(req))))
		cancel()
		synctest.Wait()
	}
	return errors.Join(errs...)
}

// readAll reads a response that came without error.
func readAll(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	return err
}

func deadlines(e *env) error {
	return e.duringEach(func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), 5*time.Second)
		defer cancel()
		return readAll(e.rt.RoundTrip(req.WithContext(ctx)))
	})
}

func clientTimeouts(e *env) error {
	client := &http.Client{Timeout: 5 * time.Second}
	return e.duringEach(func(req *http.Request) error {
		client.Transport = e.rt
		err := readAll(client.Do(req))
		if u, ok := errors.AsType[*url.Error](err); ok && !u.Timeout() {
			return fmt.Errorf("%v is no timeout", err)
		}
		return err
	})
}

func isTimeout(err error) error {
	timeout, ok := errors.AsType[net.Error](err)
	if !ok || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("got %v (a %T), want a net.Error whose Timeout is true, and context.DeadlineExceeded", err, err)
	}
	return nil
}

func othersGoOn(e *env) error {
	release := make(chan struct{})
	e.handler = func(w http.ResponseWriter, r *http.Request) { <-release; io.WriteString(w, "ok") }
	e.fetching = func(ctx context.Context) {
		select {
		case <-release:
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	first := start(e.rt, e.request(http.MethodGet, nil).WithContext(ctx))
	second := start(e.rt, e.request(http.MethodGet, nil))
	cancel()
	<-first.done.Done()
	close(release)
	<-second.done.Done()
	if second.err != nil {
		return second.err
	}
	defer second.resp.Body.Close()
	return errors.Join(isCancelled(first.err), want("the other's status", second.resp.StatusCode, 200))
}
