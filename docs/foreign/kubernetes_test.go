package foreign_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"

	gorilla "github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	spdyserver "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// kubernetes returns a config whose clients send the tokens of source, and no other
// credentials.
func kubernetes(config *rest.Config, source tokensource.Source) *rest.Config {
	config = rest.AnonymousClientConfig(config) // its Authorization would take precedence
	config.Wrap(func(base http.RoundTripper) http.RoundTripper {
		return &transport.Auth{Source: source, Base: base}
	})
	return config
}

// newCluster starts an API server that stands for the one of Kubernetes, with one pod.
func newCluster(t *testing.T, srv *tokentest.Server, events <-chan string) *rest.Config {
	const pods = "/api/v1/namespaces/default/pods"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pods+"/p", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, pod("p")) })
	mux.HandleFunc("POST "+pods, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("GET "+pods, func(w http.ResponseWriter, r *http.Request) {
		for name := "p"; ; {
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`, pod(name))
			w.(http.Flusher).Flush()
			select {
			case name = <-events:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("GET "+pods+"/p/log", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "a line") })
	mux.HandleFunc("POST "+pods+"/p/exec", echoSPDY)
	mux.HandleFunc("GET "+pods+"/p/exec", echoWebSocket)
	api := httptest.NewUnstartedServer(srv.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		mux.ServeHTTP(w, r)
	})))
	api.EnableHTTP2 = true
	api.StartTLS()
	t.Cleanup(api.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	return &rest.Config{Host: api.URL, BearerToken: "of the pod", TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

func pod(name string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q}}`, name)
}

func echoSPDY(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	conn := spdyserver.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() {
			<-replied
			io.Copy(s, s)
			s.Close()
		}()
		return nil
	})
	if conn != nil {
		<-conn.CloseChan()
	}
}

func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := (&gorilla.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	if kind, data, err := conn.ReadMessage(); err == nil {
		conn.WriteMessage(kind, data)
	}
}

// A kubeClient makes the calls that programs make.
type kubeClient struct {
	config *rest.Config
	pods   dynamic.ResourceInterface
	plain  *http.Client
}

func newKubeClient(t *testing.T, config *rest.Config) *kubeClient {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return &kubeClient{config, client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("default"), plain}
}

func (c *kubeClient) request(t *testing.T, method, path string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, c.config.Host+"/api/v1/namespaces/default/pods"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func (c *kubeClient) logs(t *testing.T) (string, error) {
	resp, err := c.plain.Do(c.request(t, http.MethodGet, "/p/log?follow=true"))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func (c *kubeClient) execSPDY(t *testing.T) (string, error) {
	rt, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return "", err
	}
	conn, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: rt}, c.request(t, http.MethodPost, "/p/exec"), "v4.channel.k8s.io")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stream, err := conn.CreateStream(http.Header{})
	if err != nil {
		return "", err
	}
	io.WriteString(stream, "a line\n")
	stream.Close()
	text, err := io.ReadAll(stream)
	return string(text), err
}

func (c *kubeClient) execWebSocket(t *testing.T) (string, error) {
	rt, holder, err := websocket.RoundTripperFor(c.config)
	if err != nil {
		return "", err
	}
	conn, err := websocket.Negotiate(rt, holder, c.request(t, http.MethodGet, "/p/exec"), "v5.channel.k8s.io")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.WriteMessage(gorilla.BinaryMessage, []byte("a line\n"))
	_, text, err := conn.ReadMessage()
	return string(text), err
}

// exec does what remotecommand.FallbackExecutor and kubectl do.
func (c *kubeClient) exec(t *testing.T) (string, error) {
	text, err := c.execWebSocket(t)
	if httpstream.IsUpgradeFailure(err) {
		return c.execSPDY(t)
	}
	return text, err
}

func TestEachCallOfClientGoOutlivesARevocation(t *testing.T) {
	srv := tokentest.NewServer(t)
	c := newKubeClient(t, kubernetes(newCluster(t, srv, nil), cacheOf(srv)))
	line := func(call func(*testing.T) (string, error)) func() (string, error) {
		return func() (string, error) { return call(t) }
	}
	for name, call := range map[string]func() (string, error){
		"get":    func() (string, error) { return named(c.pods.Get(t.Context(), "p", metav1.GetOptions{})) },
		"create": func() (string, error) { return named(c.pods.Create(t.Context(), newPod("p"), metav1.CreateOptions{})) },
		"watch": func() (string, error) {
			w, err := c.pods.Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				return "", err
			}
			defer w.Stop()
			return named((<-w.ResultChan()).Object.(*unstructured.Unstructured), nil)
		},
		"logs":                          line(c.logs),
		"exec by SPDY":                  line(c.execSPDY),
		"exec by WebSocket and by SPDY": line(c.exec),
	} {
		for _, when := range []string{"before", "after"} {
			before := srv.Counts().Issued
			got, err := call()
			if got = strings.TrimSpace(got); err != nil || got != "p" && got != "a line" {
				t.Errorf("%s %s a revocation: got %q, %v", name, when, got, err)
			}
			if n := srv.Counts().Issued - before; when == "after" && n != 1 {
				t.Errorf("%s: got %d refreshes, want 1", name, n)
			}
			srv.RevokeAccess()
		}
	}
}

func cacheOf(srv *tokentest.Server) *tokensource.Cache {
	return &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
	}}
}

func newPod(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name}}}
}

func named(pod *unstructured.Unstructured, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return pod.GetName(), nil
}

// The WebSocket transport of client-go turns a 401 into an error, so Auth cannot see it.
func TestARefusedWebSocketOfClientGoFailsUntilAnotherRequestIsRefused(t *testing.T) {
	srv := tokentest.NewServer(t)
	c := newKubeClient(t, kubernetes(newCluster(t, srv, nil), cacheOf(srv)))
	if text, err := c.execWebSocket(t); err != nil || text != "a line\n" {
		t.Fatalf("got %q, %v", text, err)
	}
	srv.RevokeAccess()
	if _, err := c.execWebSocket(t); !httpstream.IsUpgradeFailure(err) {
		t.Errorf("after a revocation: got %v, want an upgrade failure", err)
	}
	if _, err := c.pods.Get(t.Context(), "p", metav1.GetOptions{}); err != nil { // as kubectl exec does first
		t.Error(err)
	}
	if text, err := c.execWebSocket(t); err != nil || text != "a line\n" {
		t.Errorf("after another request: got %q, %v", text, err)
	}
}

func TestAnOpenWatchOutlivesARevocation(t *testing.T) {
	srv, events := tokentest.NewServer(t), make(chan string)
	c := newKubeClient(t, kubernetes(newCluster(t, srv, events), cacheOf(srv)))
	w, err := c.pods.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	<-w.ResultChan()
	for _, name := range []string{"q", "r"} {
		srv.RevokeAccess()
		if _, err := c.pods.Get(t.Context(), "p", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		events <- name
		got, _ := named((<-w.ResultChan()).Object.(*unstructured.Unstructured), nil)
		want(t, "the watch's next pod", got, name)
	}
}

// client-go looks for the transport below its layers.
func TestClientGoSeesTheTransportBelowAuth(t *testing.T) {
	srv := tokentest.NewServer(t)
	config := kubernetes(newCluster(t, srv, nil), cacheOf(srv))
	first, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	second, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tls, err := utilnet.TLSClientConfig(first)
	if err != nil || tls == nil || tls.RootCAs == nil {
		t.Errorf("TLSClientConfig: got %v, %v; want the cluster's CA", tls, err)
	}
	other, err := utilnet.TLSClientConfig(second)
	want(t, fmt.Sprintf("the TLS cache gives both the same transport, error %v", err), other == tls, true)
	dial, err := utilnet.DialerFor(first)
	want(t, fmt.Sprintf("DialerFor has a dialer, error %v", err), dial != nil, true)
	reused := func() bool {
		var reused atomic.Bool
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused.Store(i.Reused) }}
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, config.Host+"/api/v1/namespaces/default/pods/p", nil)
		resp, err := first.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return reused.Load()
	}
	want(t, "a connection is reused", fmt.Sprint(reused(), reused()), "false true")
	utilnet.CloseIdleConnectionsFor(first)
	want(t, "a connection is reused after CloseIdleConnectionsFor", reused(), false)
}
