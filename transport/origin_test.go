package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// hosts are real servers, one encrypted and one not, that answer for every name. The
// query "to", an URL, is where a request is redirected to.
type hosts struct {
	plain, secure *httptest.Server
	dials         atomic.Int32

	mu   sync.Mutex
	seen []string // the URL of each request, and " +" if it had the token
}

func newHosts(t *testing.T) *hosts {
	h := &hosts{}
	h.plain = httptest.NewServer(h.handler("http://"))
	h.secure = httptest.NewTLSServer(h.handler("https://"))
	t.Cleanup(h.plain.Close)
	t.Cleanup(h.secure.Close)
	return h
}

func (h *hosts) handler(scheme string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := scheme + r.Host + r.URL.Path
		if r.Header.Get("Authorization") == "Bearer at" {
			s += " +"
		}
		h.mu.Lock()
		h.seen = append(h.seen, s)
		h.mu.Unlock()
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	}
}

// base sends ports 80 and 8080 of every name to the plain server, others to the encrypted one.
func (h *hosts) base(t *testing.T) http.RoundTripper {
	roots := x509.NewCertPool()
	roots.AddCert(h.secure.Certificate())
	base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}} // the name in httptest's certificate
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		h.dials.Add(1)
		to := h.secure.Listener.Addr()
		if strings.HasSuffix(addr, ":80") || strings.HasSuffix(addr, ":8080") {
			to = h.plain.Listener.Addr()
		}
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}
	t.Cleanup(base.CloseIdleConnections)
	return base
}

var oneToken = tokensource.Static(&tokensource.Token{AccessToken: "at"})

// through is the URL of the first that redirects to the next and so on.
func through(urls ...string) string {
	s := urls[len(urls)-1]
	for _, u := range slices.Backward(urls[:len(urls)-1]) {
		s = u + "?to=" + url.QueryEscape(s)
	}
	return s
}

// wantSeen sends a request along a chain of redirects and checks who saw the token.
func (h *hosts) wantSeen(t *testing.T, auth *transport.Auth, want ...string) {
	t.Helper()
	var urls []string
	for _, s := range want {
		urls = append(urls, strings.TrimSuffix(s, " +"))
	}
	h.seen = nil
	resp, err := (&http.Client{Transport: auth}).Post(through(urls...), "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !slices.Equal(h.seen, want) {
		t.Errorf("got  %q\nwant %q", h.seen, want)
	}
	if resp.Request == nil || resp.Request.Header["Authorization"] != nil {
		t.Errorf("resp.Request is %p or has the token, want the caller's request", resp.Request)
	}
}

// redirects tells by " +" who may see the token.
var redirects = map[string][]string{
	"same origin":         {"https://a.test/1 +", "https://a.test/2 +", "https://a.test/3 +"},
	"other host":          {"https://a.test/1 +", "https://b.test/2"},
	"subdomain":           {"https://a.test/1 +", "https://sub.a.test/2"},
	"other port":          {"https://a.test/1 +", "https://a.test:8443/2"},
	"downgrade":           {"https://a.test/1 +", "http://a.test/2"},
	"upgrade":             {"http://a.test/1 +", "https://a.test/2"},
	"back after leaving":  {"https://a.test/1 +", "https://b.test/2", "https://a.test/3", "https://a.test/4"},
	"stay where it went":  {"https://a.test/1 +", "https://b.test/2", "https://b.test/3", "https://b.test/4"},
	"leave at the end":    {"https://a.test/1 +", "https://a.test/2 +", "https://b.test/3"},
	"back after http":     {"https://a.test/1 +", "http://a.test/2", "https://a.test/3"},
	"loopback and others": {"http://127.0.0.1:8080/1 +", "http://localhost:8080/2", "http://127.0.0.1:8080/3"},
}

func TestTheTokenStaysAtTheOriginWhereARedirectChainBegan(t *testing.T) {
	h := newHosts(t)
	for name, want := range redirects {
		t.Run(name, func(t *testing.T) {
			h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t), AllowHTTP: true}, want...)
		})
	}
}

// A strayBase does what a RoundTripper should not, but some do.
type strayBase struct {
	http.RoundTripper
	before func(*http.Request) *http.Request
	after  func(*http.Response)
}

func (b strayBase) RoundTrip(req *http.Request) (*http.Response, error) {
	if b.before != nil {
		req = b.before(req)
	}
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil && b.after != nil {
		b.after(resp)
	}
	return resp, err
}

// rebuilt is the request without its history, as a layer that retries might send it.
func rebuilt(req *http.Request) *http.Request {
	out, _ := http.NewRequestWithContext(req.Context(), req.Method, req.URL.String(), req.Body)
	out.Header, out.ContentLength, out.Host = req.Header, req.ContentLength, req.Host
	return out
}

// rewritten sends every request to one host.
func rewritten(req *http.Request) *http.Request {
	out := req.Clone(req.Context())
	out.Host = req.URL.Host
	out.URL.Host = "gateway.test"
	return out
}

func TestTheTokenStaysAtItsOriginWhateverTheBaseDoesToRequests(t *testing.T) {
	h := newHosts(t)
	for name, stray := range map[string]strayBase{
		"rewrites the host":    {before: rewritten},
		"rebuilds the request": {before: rebuilt},
		"no resp.Request":      {after: func(resp *http.Response) { resp.Request = nil }},
	} {
		for chain, want := range redirects {
			if name == "rewrites the host" && strings.Contains(strings.Join(want, ""), ":8") {
				continue // the one host has one port
			}
			t.Run(name+"/"+chain, func(t *testing.T) {
				stray.RoundTripper = h.base(t)
				h.wantSeen(t, &transport.Auth{Source: oneToken, Base: stray, AllowHTTP: true}, want...)
			})
		}
	}
}

func TestOriginsIsTheFullListOfWhereTokensGo(t *testing.T) {
	h := newHosts(t)
	for _, c := range []struct {
		origins, want []string
	}{
		{[]string{"https://a.test", "https://b.test:8443"}, []string{"https://a.test/1 +", "https://b.test:8443/2 +", "https://b.test/3", "https://c.test/4", "https://a.test/5 +"}},
		{[]string{"HTTPS://B.Test:443/"}, []string{"https://a.test/1", "https://b.test/2 +", "http://b.test/3"}},
		{[]string{"https://b.test"}, []string{"https://a.test/1", "https://B.TEST:443/2 +"}},
		{[]string{}, []string{"https://a.test/1", "https://a.test/2"}},
	} {
		h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t), Origins: c.origins}, c.want...)
	}
}

func TestCaseAndDefaultPortAreNoOtherOrigin(t *testing.T) {
	h := newHosts(t)
	h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t)}, "https://a.test/1 +", "https://A.test:443/2 +", "https://a.TEST/3 +")
	h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t), AllowHTTP: true}, "http://a.test:80/1 +", "http://A.test/2 +")
}

// watchedBody counts its Closes.
type watchedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *watchedBody) Close() error { b.closed.Add(1); return nil }

// wantUnsent checks that nothing is sent, and why.
func (h *hosts) wantUnsent(t *testing.T, auth *transport.Auth, target, want string) {
	t.Helper()
	body := &watchedBody{Reader: strings.NewReader("body")}
	req, err := http.NewRequestWithContext(t.Context(), "POST", target, body)
	if err != nil {
		t.Fatal(err)
	}
	before := h.dials.Load()
	_, err = auth.RoundTrip(req)
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || e.StatusCode != 0 || e.Error() != "transport: the request was not sent: "+want {
		t.Errorf("%s: got %v, want an Error: %s", target, err, want)
	}
	if n := h.dials.Load() - before; n != 0 || body.closed.Load() != 1 {
		t.Errorf("%s: got %d dials and %d Closes of the body, want none and one", target, n, body.closed.Load())
	}
}

func TestATokenTravelsEncryptedOrNotAtAll(t *testing.T) {
	h := newHosts(t)
	auth := &transport.Auth{Source: oneToken, Base: h.base(t)}
	for _, host := range []string{"a.test", "a.test:8080", "10.0.0.1", "localhost.a.test", "127.0.0.1.a.test"} {
		h.wantUnsent(t, auth, "http://"+host+"/", "http to "+host+" is not encrypted, and Auth.AllowHTTP is not set")
	}
	auth.Origins = []string{"http://a.test"}
	h.wantUnsent(t, auth, "http://a.test/", "http to a.test is not encrypted, and Auth.AllowHTTP is not set")
	auth.Origins = nil
	for _, host := range []string{"localhost:8080", "127.0.0.1:8080", "127.1.2.3:8080", "[::1]:8080"} {
		h.wantSeen(t, auth, "http://"+host+"/1 +")
	}
}

func TestWhatCarriesNoTokenMayTravelUnencrypted(t *testing.T) {
	h := newHosts(t)
	h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t), Origins: []string{"https://b.test"}}, "http://a.test/1")
	h.wantSeen(t, &transport.Auth{Source: oneToken, Base: h.base(t)}, "https://a.test/1 +", "http://a.test/2")
}

func TestABadOriginFailsEveryRequest(t *testing.T) {
	h := newHosts(t)
	for _, bad := range []string{"", "a.test", "https://", "https://*.a.test", "https://a.test/path", "https://a.test,https://b.test", "https://user:secret@a.test"} {
		auth := &transport.Auth{Source: oneToken, Base: h.base(t), Origins: []string{"https://a.test", bad}}
		h.wantUnsent(t, auth, "https://a.test/", "Auth.Origins[1] is not an origin such as https://api.example.com")
	}
}

// Two letters that are not ASCII are folded by Unicode to some that are.
func TestATokenDoesNotFollowARedirectToAHostWithAnotherNameOnTheWire(t *testing.T) {
	h := newHosts(t)
	for _, origins := range [][]string{nil, {"http://ai.test", "http://ass.test"}} {
		auth := &transport.Auth{Source: oneToken, Base: h.base(t), AllowHTTP: true, Origins: origins}
		for _, to := range []string{"http://a\u0130.test/2", "http://a%C4%B0.test/2", "http://a\u1e9e.test/2", "http://a%E1%BA%9E.test/2"} {
			for _, from := range []string{"http://ai.test/1", "http://ass.test/1"} {
				h.seen = nil
				resp, err := (&http.Client{Transport: auth}).Get(through(from, to))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if len(h.seen) != 2 || h.seen[0] != from+" +" || strings.HasSuffix(h.seen[1], "+") && !strings.HasPrefix(h.seen[1], strings.TrimSuffix(from, "1")) {
					t.Errorf("from %s to %q: got %q, want the token at the first alone", from, to, h.seen)
				}
			}
		}
	}
}

func TestAnUnencryptedRequestToThisMachineDoesNotGoByAProxy(t *testing.T) {
	h := newHosts(t)
	base := h.base(t).(*http.Transport)
	base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test:80"})
	const want = "http to localhost:8080 goes unencrypted to a proxy on another machine, and Auth.AllowHTTP is not set"
	h.wantUnsent(t, &transport.Auth{Source: oneToken, Base: base}, "http://localhost:8080/", want)
	h.wantUnsent(t, &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: "at", TokenType: "DPoP"}),
		Base: &transport.DPoP{Key: edKey, Base: telling{base}}}, "http://localhost:8080/", want)
	h.wantSeen(t, &transport.Auth{Source: oneToken, Base: base, AllowHTTP: true}, "http://localhost:8080/1 +")
}

func TestAChainOfRedirectsWithoutABeginningCarriesNoToken(t *testing.T) {
	var last *http.Request
	auth := &transport.Auth{Source: oneToken, Base: caught(&last)}
	req := postBody(t, "https://a.test", nil)
	req.Response = &http.Response{Request: req}
	if _, err := auth.RoundTrip(req); err != nil || last.Header.Get("Authorization") != "" {
		t.Errorf("got %v, and %q was sent, want no token", err, last.Header.Get("Authorization"))
	}
}

func TestAChainWithAHopMissingCarriesNoToken(t *testing.T) {
	h := newHosts(t)
	for name, last := range map[string]*http.Response{
		"no request":     {},
		"no URL":         {Request: &http.Request{}},
		"none before it": {Request: &http.Request{URL: &url.URL{Scheme: "https", Host: "a.test"}, Response: &http.Response{}}},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://a.test/1", nil)
		req.Response = last
		h.seen = nil
		resp, err := (&transport.Auth{Source: oneToken, Base: h.base(t)}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := []string{"https://a.test/1"}; !slices.Equal(h.seen, want) {
			t.Errorf("%s: got %q, want %q", name, h.seen, want)
		}
	}
}

func TestTheCallersOwnAuthorizationPasses(t *testing.T) {
	h := newHosts(t)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://a.test/1", nil)
	req.Header.Set("Authorization", "Basic own")
	resp, err := (&transport.Auth{Base: h.base(t)}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Request != req || req.Header.Get("Authorization") != "Basic own" {
		t.Errorf("got the request %v, want the caller's, unchanged", resp.Request)
	}
}

func TestATokenThatNoHeaderMayCarryIsNotSent(t *testing.T) {
	h := newHosts(t)
	const bytes = ", which no header may carry"
	for _, c := range []struct {
		token *tokensource.Token
		want  string
	}{
		{nil, "there is no token"},
		{&tokensource.Token{}, "access_token is empty"},
		{&tokensource.Token{AccessToken: "a b"}, "access_token has the byte 0x20" + bytes},
		{&tokensource.Token{AccessToken: "a\r\nX: y"}, "access_token has the byte 0x0d" + bytes},
		{&tokensource.Token{AccessToken: "a\n"}, "access_token has the byte 0x0a" + bytes},
		{&tokensource.Token{AccessToken: "\x00"}, "access_token has the byte 0x00" + bytes},
		{&tokensource.Token{AccessToken: "a\x7f"}, "access_token has the byte 0x7f" + bytes},
		{&tokensource.Token{AccessToken: "é"}, "access_token has the byte 0xc3" + bytes},
		{&tokensource.Token{AccessToken: "at", TokenType: "Be arer"}, "token_type is not an authentication scheme"},
		{&tokensource.Token{AccessToken: "at", TokenType: "Bearer\r\nX:"}, "token_type is not an authentication scheme"},
		{&tokensource.Token{AccessToken: "at", TokenType: "Ké"}, "token_type is not an authentication scheme"},
		{&tokensource.Token{AccessToken: "at", TokenType: "DPoP"}, "a token of type DPoP must not be sent without a proof"},
	} {
		src := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { return c.token, nil })
		h.wantUnsent(t, &transport.Auth{Source: src, Base: h.base(t)}, "https://a.test/", "tokensource: "+c.want)
	}
}

func TestARequestWhoseHeaderIsNilOrHasANameAsLongCarriesTheToken(t *testing.T) {
	for _, header := range []http.Header{nil, {"Cache-Control": {"no-cache"}}} {
		auth := &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			if got := req.Header.Get("Authorization"); got != "Bearer old" {
				t.Errorf("%v: sent with %q, want the token", header, got)
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})}
		req := postBody(t, "https://api.example", nil)
		req.Header = header
		if _, err := auth.RoundTrip(req); err != nil {
			t.Errorf("%v: got %v, want no error", header, err)
		}
	}
}
