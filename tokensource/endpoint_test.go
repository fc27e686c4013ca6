package tokensource_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
)

// endpointFunc is a token endpoint without a network, as the Transport of a client.
type endpointFunc func(*http.Request) (*http.Response, error)

func (f endpointFunc) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	return f(req)
}

// endpointReply is an Endpoint that always answers this.
func endpointReply(status int, header http.Header, body string) tokensource.Endpoint {
	return tokensource.Endpoint{URL: "https://login.example.com/token", ClientID: "app", Client: &http.Client{
		Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
		}),
	}}
}

func contentType(s string) http.Header { return http.Header{"Content-Type": {s}} }

var anyGrant = url.Values{"grant_type": {"client_credentials"}}

// wantEndpointError checks the text, and that it shows nothing of the reply's body.
func wantEndpointError(t *testing.T, tok *tokensource.Token, err error, want string) *tokensource.EndpointError {
	t.Helper()
	e, ok := errors.AsType[*tokensource.EndpointError](err)
	if !ok || tok != nil || err.Error() != want {
		t.Fatalf("got token %v, error %v\nwant an EndpointError: %s", tok, err, want)
	}
	return e
}

// endpointServer counts the requests to a token endpoint.
func endpointServer(t *testing.T, h http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv, &n
}

func TestNoRedirectIsFollowed(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		other, seen := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
		srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL+"/token")
			w.WriteHeader(status)
		})
		client := srv.Client()
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
		e := tokensource.Endpoint{URL: srv.URL, ClientID: "app", ClientSecret: "hush-hush", Client: client}
		tok, err := e.Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, fmt.Sprintf("tokensource: the token endpoint answered %d: a redirect, which is not followed", status))
		if seen.Load() != 0 {
			t.Errorf("%d: the other server saw %d requests, want none", status, seen.Load())
		}
		if client.CheckRedirect(nil, nil) != nil {
			t.Error("the user's CheckRedirect was changed")
		}
	}
}

// An endless body counts what is read of it.
type endless struct{ read, closed int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return copy(p, strings.Repeat("x", len(p))), nil
}
func (e *endless) Close() error { e.closed++; return nil }

func TestAtMostOneMiBOfAReplyIsRead(t *testing.T) {
	for _, status := range []int{200, 500} {
		body := &endless{}
		e := endpointReply(status, nil, "")
		e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: body}, nil
		})
		tok, err := e.Exchange(t.Context(), anyGrant)
		wantEndpointError(t, tok, err, fmt.Sprintf("tokensource: the token endpoint answered %d: reply: more than 1048576 bytes", status))
		if body.read > 1<<20+1 || body.closed != 1 {
			t.Errorf("read %d bytes and closed %d times, want at most 1 MiB and once", body.read, body.closed)
		}
	}
}

func TestAServerThatNeverStopsIsCutOff(t *testing.T) {
	stopped := make(chan struct{})
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(stopped)
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 64<<10))
		}
	})
	tok, err := tokensource.Endpoint{URL: srv.URL}.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: more than 1048576 bytes")
	<-stopped
}

func TestAReplyOfExactlyOneMiBIsRead(t *testing.T) {
	body := `{"access_token":"at"}`
	body += strings.Repeat(" ", 1<<20-len(body))
	if tok, err := endpointReply(200, nil, body).Exchange(t.Context(), anyGrant); err != nil || tok.AccessToken != "at" {
		t.Errorf("got %v, %v, want the token", tok, err)
	}
}

func TestATruncatedReplyIsAnEndpointError(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"access_token":"hush"}`)
	})
	tok, err := tokensource.Endpoint{URL: srv.URL}.Exchange(t.Context(), anyGrant)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 200: reply: unexpected EOF")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want io.ErrUnexpectedEOF wrapped", err)
	}
}

// sentTo returns the request and its form that e sends.
func sentTo(t *testing.T, e tokensource.Endpoint, form url.Values) (*http.Request, url.Values) {
	t.Helper()
	var got *http.Request
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		got = r
		io.WriteString(w, `{"access_token":"at"}`)
	})
	e.URL = srv.URL + "/token?tenant=7"
	if _, err := e.Exchange(t.Context(), form); err != nil {
		t.Fatal(err)
	}
	return got, got.PostForm
}

const oddID, oddSecret = "id:é +&=%", "s:é +&=%/\"\n"

func TestBasicCarriesIDAndSecretFormEncoded(t *testing.T) {
	r, form := sentTo(t, tokensource.Endpoint{ClientID: oddID, ClientSecret: oddSecret}, anyGrant)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("id%3A%C3%A9+%2B%26%3D%25:s%3A%C3%A9+%2B%26%3D%25%2F%22%0A"))
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !reflect.DeepEqual(form, anyGrant) {
		t.Errorf("got the form %v, want %v", form, anyGrant)
	}
}

func TestPostCarriesIDAndSecretInTheForm(t *testing.T) {
	r, form := sentTo(t, tokensource.Endpoint{ClientID: oddID, ClientSecret: oddSecret, ClientSecretPost: true}, anyGrant)
	want := url.Values{"grant_type": {"client_credentials"}, "client_id": {oddID}, "client_secret": {oddSecret}}
	if !reflect.DeepEqual(form, want) || r.Header.Get("Authorization") != "" {
		t.Errorf("got %v and Authorization %q, want %v and none", form, r.Header.Get("Authorization"), want)
	}
}

func TestAPublicClientSendsItsIDAlone(t *testing.T) {
	for _, post := range []bool{false, true} {
		r, form := sentTo(t, tokensource.Endpoint{ClientID: "app", ClientSecretPost: post}, anyGrant)
		want := url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}}
		if !reflect.DeepEqual(form, want) || r.Header.Get("Authorization") != "" {
			t.Errorf("got %v and Authorization %q, want %v and none", form, r.Header.Get("Authorization"), want)
		}
	}
}

func TestTheRequestIsAFormPostThatAsksForJSON(t *testing.T) {
	r, _ := sentTo(t, tokensource.Endpoint{}, anyGrant)
	got := []string{r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Accept")}
	want := []string{"POST", "/token?tenant=7", "application/x-www-form-urlencoded", "application/json"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParamsAreSentAndTheGrantsWin(t *testing.T) {
	params := url.Values{"audience": {"a", "b"}, "scope": {"all"}, "client_id": {"other"}, "grant_type": {"password"}}
	form := url.Values{"grant_type": {"refresh_token"}, "scope": {"few"}}
	params0, form0 := maps.Clone(params), maps.Clone(form)
	_, got := sentTo(t, tokensource.Endpoint{ClientID: "app", Params: params}, form)
	want := url.Values{"audience": {"a", "b"}, "scope": {"few"}, "client_id": {"app"}, "grant_type": {"refresh_token"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !reflect.DeepEqual(params, params0) || !reflect.DeepEqual(form, form0) {
		t.Errorf("the caller's maps became %v and %v, want %v and %v", params, form, params0, form0)
	}
}

func TestScopesAreJoined(t *testing.T) {
	var got url.Values
	e := endpointReply(200, nil, "")
	e.Client.Transport = endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		got = req.PostForm
		return nil, errors.New("enough")
	})
	(&tokensource.ClientCredentials{Endpoint: e, Scopes: []string{"a", "b"}}).Token(t.Context(), nil)
	if want := (url.Values{"grant_type": {"client_credentials"}, "client_id": {"app"}, "scope": {"a b"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnEndpointIsSafeForConcurrentUse(t *testing.T) {
	srv, n := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	e := tokensource.Endpoint{URL: srv.URL, ClientID: "app", ClientSecret: "hush", ClientSecretPost: true, Params: url.Values{"client_id": {"x"}, "a": {"b"}}}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := e.Exchange(t.Context(), anyGrant); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n.Load() != 20 {
		t.Errorf("got %d requests, want 20", n.Load())
	}
}

// dialCounter is a client whose names all lead to srv.
func dialCounter(srv *httptest.Server) (*http.Client, *atomic.Int32) {
	var dials atomic.Int32
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}}}, &dials
}

func TestPlainHTTPIsForLoopbackOrWithAllowHTTP(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	for _, c := range []struct {
		url   string
		allow bool
		want  int32
	}{
		{"http://login.example.com/token", false, 0},
		{"HTTP://10.0.0.1/token", false, 0},
		{"http://127.0.0.1.example.com/token", false, 0},
		{"http://login.example.com/token", true, 1},
		{"http://localhost:1/token", false, 1},
		{"http://127.0.0.1:1/token", false, 1},
		{"http://[::1]:1/token", false, 1},
	} {
		client, dials := dialCounter(srv)
		e := tokensource.Endpoint{URL: c.url, AllowHTTP: c.allow, ClientSecret: "hush-hush", Client: client}
		_, err := e.Exchange(t.Context(), anyGrant)
		if (err == nil) != (c.want == 1) || dials.Load() != c.want {
			t.Errorf("%s, AllowHTTP %t: got %d dials, %v, want %d", c.url, c.allow, dials.Load(), err, c.want)
		}
	}
}

func TestAPlainTokenRequestToLoopbackDoesNotGoByAProxy(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"access_token":"at"}`) })
	client, dials := dialCounter(srv)
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:3128"})
	e := tokensource.Endpoint{URL: "http://localhost/token", Client: client}
	_, err := e.Exchange(t.Context(), anyGrant)
	if err == nil || !strings.Contains(err.Error(), "Endpoint.URL: http to localhost goes unencrypted to a proxy on another machine") || dials.Load() != 0 {
		t.Errorf("got %d dials and %v, want an error that tells of the proxy", dials.Load(), err)
	}
}

func TestAnEndpointNeedsAnAbsoluteURL(t *testing.T) {
	for _, s := range []string{"", "/token", "login.example.com/token", "https:///hush", "https://hush%zz", ":hush", "https://a\nhush"} {
		_, err := tokensource.Endpoint{URL: s}.Exchange(t.Context(), anyGrant)
		if err == nil || strings.Contains(err.Error(), "hush") || !strings.Contains(err.Error(), "Endpoint.URL") {
			t.Errorf("%q: got %v, want an error that names the field and does not quote it", s, err)
		}
	}
}

func TestNetworkErrorsDoNotQuoteTheURL(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	nested := &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.RequestURI = ""
		return http.DefaultClient.Do(req)
	})}
	for _, client := range []*http.Client{nil, srv.Client(), nested} {
		e := tokensource.Endpoint{URL: srv.URL + "/token?key=hush-hush", ClientSecret: "hush-hush", Client: client}
		_, err := e.Exchange(t.Context(), anyGrant)
		if err == nil || strings.Contains(err.Error(), "hush") || !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF without the URL", err)
		}
	}
}

func TestAnErrorIsThatOfTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // else net/http does not notice that the client left
		cancel()
		<-r.Context().Done()
	})
	if _, err := (tokensource.Endpoint{URL: srv.URL}).Exchange(ctx, anyGrant); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
