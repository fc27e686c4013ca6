package compose

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A proxied API: a real server that refuses token-1, and a ReverseProxy before it
// whose Transport is Auth.
type proxied struct {
	*httptest.Server // the proxy
	refused          atomic.Int32
}

func newProxied(t *testing.T, source tokensource.Source, change func(*httputil.ReverseProxy), api http.HandlerFunc) *proxied {
	p := new(proxied)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer token-1" {
			p.refused.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		api(w, r)
	}))
	t.Cleanup(backend.Close)
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Authorization")
		},
		Transport: &transport.Auth{Source: source, Base: base},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	if change != nil {
		change(proxy)
	}
	p.Server = httptest.NewUnstartedServer(proxy)
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Start()
	t.Cleanup(p.Close)
	return p
}

// echo answers with the token and the body.
func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, r.Header.Get("Authorization"), ": ")
	io.Copy(w, r.Body)
}

// also lets a proxy rewrite more.
func also(rewrite func(*httputil.ProxyRequest)) func(*httputil.ReverseProxy) {
	return func(p *httputil.ReverseProxy) {
		before := p.Rewrite
		p.Rewrite = func(r *httputil.ProxyRequest) { before(r); rewrite(r) }
	}
}

// exchange sends a request and returns the body of the answer.
func exchange(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, textOf(t, resp)
}

func (p *proxied) request(t *testing.T, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestAProxyWithAuthAddsTheTokenAndSendsUploadsAgain(t *testing.T) {
	p := newProxied(t, numbered(time.Hour), nil, echo)
	_, got := exchange(t, p.request(t, io.MultiReader(strings.NewReader("streamed"))))
	if want := "Bearer token-2: streamed"; got != want || p.refused.Load() != 1 {
		t.Errorf("got %q after %d refusals, want %q after 1", got, p.refused.Load(), want)
	}
}

// Auth passes a request that has an Authorization untouched, so that a client's own
// credentials reach the API, unless Rewrite deletes them. That is what a gateway
// wants whose clients have accounts of their own; one that lends its token does not.
func TestAProxyPassesTheClientsAuthorizationUnlessItIsDeleted(t *testing.T) {
	for want, change := range map[string]func(*httputil.ReverseProxy){
		"Bearer token-2: ": nil,
		"Basic own: ":      also(func(r *httputil.ProxyRequest) { r.Out.Header["Authorization"] = r.In.Header["Authorization"] }),
	} {
		p := newProxied(t, numbered(time.Hour), change, echo)
		req := p.request(t, nil)
		req.Header.Set("Authorization", "Basic own")
		if _, got := exchange(t, req); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What a client declares hop-by-hop is gone before Auth adds the token.
func TestAClientCannotMakeAProxyDropTheToken(t *testing.T) {
	p := newProxied(t, numbered(time.Hour), nil, echo)
	req := p.request(t, nil)
	req.Header.Set("Connection", "Authorization, X-Secret")
	req.Header.Set("Authorization", "Basic own")
	if _, got := exchange(t, req); got != "Bearer token-2: " {
		t.Errorf("got %q, want the token", got)
	}
}

func TestAnUpgradeGoesThroughAProxyWithAuth(t *testing.T) {
	p := newProxied(t, numbered(time.Hour), nil, func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, buf)
	})
	req := p.request(t, nil)
	req.Method = http.MethodGet
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || p.refused.Load() != 1 {
		t.Fatalf("got status %d after %d refusals, want 101 after 1", resp.StatusCode, p.refused.Load())
	}
	io.WriteString(conn, "hello\n")
	if got, err := bufio.NewReader(conn).ReadString('\n'); got != "hello\n" {
		t.Errorf("got %q and %v, want hello", got, err)
	}
}

func TestAProxyWithAuthPassesOnWhatStreams(t *testing.T) {
	more := make(chan struct{})
	p := newProxied(t, numbered(time.Hour), nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "first\n")
		http.NewResponseController(w).Flush()
		<-more
		io.WriteString(w, "rest\n")
	})
	resp, err := http.DefaultClient.Do(p.request(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	first, err := body.ReadString('\n') // hangs if it is held back
	close(more)
	rest, err2 := io.ReadAll(body)
	if first+string(rest) != "first\nrest\n" {
		t.Errorf("got %q, %q, %v, %v", first, rest, err, err2)
	}
}

func TestAClientThatLeavesAProxyEndsTheRequestAtTheAPI(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	p := newProxied(t, numbered(time.Hour), nil, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if resp, err := http.DefaultClient.Do(p.request(t, nil).WithContext(ctx)); err == nil {
		resp.Body.Close()
		t.Error("no error")
	}
	<-ended // hangs if the request goes on
}

func TestAClientThatLeavesAProxyWaitsForNoToken(t *testing.T) {
	asked, release, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	defer close(release)
	source := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		close(asked)
		<-release
		return nil, errors.New("too late")
	})}
	p := newProxied(t, source, func(p *httputil.ReverseProxy) {
		p.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { left <- err }
	}, echo)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if resp, err := http.DefaultClient.Do(p.request(t, nil).WithContext(ctx)); err == nil {
		resp.Body.Close()
		t.Error("no error")
	}
	if err := <-left; !errors.Is(err, context.Canceled) { // hangs if RoundTrip waits
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestAResponseThatIsCutShortIsCutShortByAProxyToo(t *testing.T) {
	p := newProxied(t, numbered(time.Hour), nil, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "part")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := http.DefaultClient.Do(p.request(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("got %q as the whole body, want an error", body)
	}
}

func TestAProxyWithAuthPassesOn103AndWaitsFor100(t *testing.T) {
	p := newProxied(t, numbered(time.Hour), nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s, %v", body, err)
	})
	var hints, continues atomic.Int32
	req := p.request(t, io.MultiReader(strings.NewReader("streamed")))
	req.Header.Set("Expect", "100-continue")
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got100Continue: func() { continues.Add(1) },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") == "</style.css>" {
				hints.Add(1)
			}
			return nil
		},
	}))
	if _, got := exchange(t, req); got != "streamed, <nil>" {
		t.Errorf("got %q, want the body", got)
	}
	if hints.Load() != 1 || continues.Load() != 1 {
		t.Errorf("got %d times 103 and %d times 100, want 1 each", hints.Load(), continues.Load())
	}
}

// The default answer is 502, whatever has happened.
func TestAnErrorHandlerOfAProxyLearnsWhyNoTokenCame(t *testing.T) {
	dead := &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, tokensource.ErrReauthenticate
	})}
	for want, change := range map[int]func(*httputil.ReverseProxy){
		http.StatusBadGateway: nil,
		http.StatusServiceUnavailable: func(p *httputil.ReverseProxy) {
			p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
				if e, ok := errors.AsType[*transport.Error](err); ok && errors.Is(e, tokensource.ErrReauthenticate) {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}
		},
	} {
		p := newProxied(t, dead, change, echo)
		if resp, _ := exchange(t, p.request(t, nil)); resp.StatusCode != want {
			t.Errorf("got status %d, want %d", resp.StatusCode, want)
		}
	}
}

// ReverseProxy copies the Trailer before its values have come. A gateway that
// judges requests by their headers wants it so.
func TestAProxyLosesTheRequestsTrailersUnlessRewritePassesThemOn(t *testing.T) {
	for want, change := range map[string]func(*httputil.ReverseProxy){
		"":    nil,
		"sum": also(func(r *httputil.ProxyRequest) { r.Out.Trailer = r.In.Trailer }),
	} {
		var got string
		p := newProxied(t, numbered(time.Hour), change, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got = r.Trailer.Get("X-Sum")
		})
		req := p.request(t, io.MultiReader(strings.NewReader("streamed")))
		req.Trailer = http.Header{"X-Sum": {"sum"}}
		if exchange(t, req); got != want {
			t.Errorf("got trailer %q, want %q", got, want)
		}
	}
}
