package contract

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
)

var clients = []entry{
	{name: "http.Client follows redirects, and keeps cookies", run: followsRedirects},
	{name: "http.Client that follows no redirects gets them", run: getsRedirects},
	{name: "CloseIdleConnections reaches the base", run: closesIdle},
	{name: "many requests at once get their own answers", run: manyAtOnce},
}

// redirecting leads from /a to /b to /c, and notes who was there.
type redirecting struct {
	mu   sync.Mutex
	seen []string
}

func (h *redirecting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.seen = append(h.seen, strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.Path, " ", string(body), " ", r.Header.Get("Cookie"))))
	h.mu.Unlock()
	switch r.URL.Path {
	case "/a":
		http.SetCookie(w, &http.Cookie{Name: "from", Value: "a"})
		http.Redirect(w, r, "/b", http.StatusTemporaryRedirect)
	case "/b":
		http.Redirect(w, r, "/c", http.StatusSeeOther)
	}
}

func followsRedirects(e *env) error {
	h := new(redirecting)
	e.handler = h.ServeHTTP
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	req := e.request(http.MethodPost, strings.NewReader("hello"))
	req.URL.Path = "/a"
	resp, err := (&http.Client{Transport: e.rt, Jar: jar}).Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if want := []string{"POST /a hello", "POST /b hello from=a", "GET /c  from=a"}; !slices.Equal(h.seen, want) {
		return fmt.Errorf("the server saw %q, want %q", h.seen, want)
	}
	var chain []string
	for hop := resp.Request; ; hop = hop.Response.Request {
		chain = append(chain, hop.URL.Path)
		if hop.Response == nil {
			break
		}
	}
	if want := []string{"/c", "/b", "/a"}; !slices.Equal(chain, want) {
		return fmt.Errorf("the chain of redirects is %q, want %q", chain, want)
	}
	return nil
}

func getsRedirects(e *env) error {
	e.handler = new(redirecting).ServeHTTP
	client := &http.Client{
		Transport:     e.rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req := e.request(http.MethodPost, strings.NewReader("hello"))
	req.URL.Path = "/a"
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return errors.Join(want("the status", resp.StatusCode, 307), want("cookies", len(resp.Cookies()), 1))
}

func closesIdle(e *env) error {
	_, err := do(e.rt, e.request(http.MethodGet, nil))
	before := e.network.open.Load()
	(&http.Client{Transport: e.rt}).CloseIdleConnections()
	synctest.Wait()
	return errors.Join(err, want("idle connections", before > 0, true), want("connections left", e.network.open.Load(), 0))
}

func manyAtOnce(e *env) error {
	const n = 20
	var here atomic.Int32
	together := make(chan struct{})
	e.handler = func(w http.ResponseWriter, r *http.Request) {
		if here.Add(1) == n {
			close(together)
		}
		select {
		case <-together:
		case <-e.life.Done():
		}
		io.WriteString(w, r.Header.Get("X-N"))
		io.Copy(w, r.Body)
	}
	var all []*pending
	for i := range n {
		req, _ := e.post(strings.NewReader(strings.Repeat("x", i)))
		req.Header.Set("X-N", fmt.Sprint(i))
		all = append(all, begin(e.rt, req))
	}
	for i, p := range all {
		<-p.done.Done()
		if p.err != nil {
			return p.err
		}
		defer p.resp.Body.Close()
		body, err := io.ReadAll(p.resp.Body)
		e.note(in(fmt.Sprint("request ", i), errors.Join(err, want("the answer", string(body), fmt.Sprint(i, strings.Repeat("x", i))))))
	}
	return nil
}
