package faults_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A wire is a client's end of a connection. It was hit if a fault befell it, and
// left if a caller who used it gave up.
type wire struct {
	net.Conn
	hit, left atomic.Bool
	closed    func()
}

func (w *wire) Close() error { w.closed(); return w.Conn.Close() }

// A fleet is many clients of one API over one Auth.
type fleet struct {
	soak   *soak
	name   string
	api    *soakAPI
	most   int32 // times that a request may be sent
	cache  *tokensource.Cache
	bound  bool // by DPoP; else the token comes from a login: it rotates, and can be lost
	client http.Client
	bases  []*http.Transport
	ailing atomic.Bool // a refresh is under way, or the last one failed
}

// recorded bounds the recording of a body here. Larger ones are sent, too.
const recorded = mib

func newFleet(s *soak, name string, a *soakAPI, tlsConfig *tls.Config, bound bool) *fleet {
	f := &fleet{soak: s, name: name, api: a, most: 2, bound: bound}
	base := &http.Transport{MaxIdleConnsPerHost: clientsEach, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, DialContext: f.dial}
	endpointBase := new(http.Transport)
	f.bases = []*http.Transport{base, endpointBase}
	endpoint := tokensource.Endpoint{URL: "http://" + s.front.Addr().String() + "/token", Client: &http.Client{Transport: endpointBase}}
	authority := s.authority.Load()
	endpoint.ClientID, endpoint.ClientSecret = authority.ClientID, authority.ClientSecret
	below := roundTripper(func(req *http.Request) (*http.Response, error) {
		req.Context().Value(requestKey{}).(*request).sent.Add(1)
		return base.RoundTrip(req)
	})
	auth := &transport.Auth{MaxBody: recorded, Base: below}
	source := tokensource.Source(&tokensource.RefreshToken{Endpoint: endpoint})
	if bound {
		dpop := &transport.DPoP{Key: key, Base: endpointBase}
		endpoint.Client.Transport = dpop
		auth.Base = &transport.DPoP{Key: key, Base: below}
		source, f.most = &tokensource.ClientCredentials{Endpoint: endpoint}, 6
	}
	f.cache = &tokensource.Cache{Source: f.watched(source), Timeout: refreshTimeout}
	auth.Source, f.client.Transport = f.cache, auth
	return f
}

// refreshTimeout is far above what a token request takes on a busy machine.
const refreshTimeout = 5 * time.Second

// watched checks that a refresh fails only if the endpoint does.
func (f *fleet) watched(source tokensource.Source) tokensource.Source {
	return tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		s, mended, broken, expiries := f.soak, f.soak.mended.Load(), f.soak.broken.Load(), f.soak.expiries.Load()
		f.ailing.Store(true)
		token, err := source.Token(ctx, old)
		f.ailing.Store(err != nil)
		s.refreshes.Add(1)
		broke := broken != mended || s.broken.Load() != broken
		lost := errors.Is(err, tokensource.ErrReauthenticate) && s.repliesLost.Load()
		stale := is[*tokensource.EndpointError](err) && s.expiries.Load() != expiries // the nonce that it had just got
		if err != nil && !broke && !lost && !stale {
			s.fail("%s: a refresh failed though the endpoint works: %v", f.name, err)
		}
		return token, err
	})
}

// login gets a fleet a new token to begin with.
func (f *fleet) login() {
	if !f.bound {
		f.cache.Set(context.Background(), &tokensource.Token{RefreshToken: f.soak.authority.Load().RefreshToken()})
	}
}

// dial connects, and remembers for which request and to which end of the server.
func (f *fleet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	before := f.api.hits.Load()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	w := &wire{Conn: conn}
	if x, ok := ctx.Value(requestKey{}).(*request); ok {
		x.used(w)
	}
	if err != nil { // the server may have reset the connection before it was there
		w.hit.Store(f.api.hits.Load() != before)
		return nil, err
	}
	local := conn.LocalAddr().String()
	w.closed = func() { f.api.wires.CompareAndDelete(local, w) }
	f.api.struck.Delete(local)
	f.api.wires.Store(local, w)
	if _, hit := f.api.early.LoadAndDelete(local); hit {
		f.api.struck.Store(local, nil)
		w.hit.Store(true)
	}
	return w, nil
}

// A request is one that a client sends.
type request struct {
	kind  string
	load  payload
	phase int64 // of the soak when it began
	sent  atomic.Int32

	mu     sync.Mutex // guards what follows
	wires  []*wire    // those that it used
	gaveUp bool
}

type requestKey struct{}

func (x *request) used(w *wire) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Contains(x.wires, w) {
		x.wires = append(x.wires, w)
	}
	if x.gaveUp {
		w.left.Store(true)
	}
}

// giveUp says that the caller is about to cancel.
func (x *request) giveUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.gaveUp = true
	for _, w := range x.wires {
		w.left.Store(true)
	}
}

// hits is how many of the wires that the request used a fault befell.
func (x *request) hits() (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range x.wires {
		if w.hit.Load() {
			n++
		}
	}
	return n
}

// left reports whether the caller of another request on one of its wires gave up.
func (x *request) left() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.wires, func(w *wire) bool { return w.left.Load() })
}

// hit reports whether a fault befell a connection of the request. If that broke
// before it was ready, net/http does not say that the request was to have it; but
// the error has its address.
func (x *request) hit(a *soakAPI, err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Source != nil {
		if _, struck := a.struck.Load(op.Source.String()); struck {
			return true
		}
	}
	return x.hits() > 0
}

// A payload is a body and its hash.
type payload struct {
	data []byte
	sum  string
}

// payloads are of 0 to 4 MiB, most of them small.
var payloads = sync.OnceValue(func() (all []payload) {
	data, _ := io.ReadAll(noise(4 * mib))
	for i := range 45 {
		size := i // 0, 1, ...
		if i > 1 {
			size = 1<<(i/2) + i*(1<<(i/2))/90
		}
		part := data[:min(size, len(data))]
		sum := sha256.Sum256(part)
		all = append(all, payload{part, hex.EncodeToString(sum[:])})
	}
	return all
})

// A body counts how often it is closed, and gives nothing after that.
type body struct {
	io.Reader
	soak   *soak
	copied bool // by GetBody, see client.another
	closes atomic.Int32
}

func (b *body) Read(p []byte) (int, error) {
	if b.closes.Load() > 0 {
		return 0, os.ErrClosed
	}
	return b.Reader.Read(p)
}

func (b *body) Close() error {
	switch n := b.closes.Add(1); {
	case n > 1:
		b.soak.fail("a body was closed %d times", n)
	case !b.copied:
		b.soak.closed.Add(1)
	}
	return nil
}

// send sends a random request, and judges what comes of it.
func (f *fleet) send(random *mathrand.Rand) {
	x := &request{kind: []string{get, get, getter, getter, stream, stream}[random.IntN(6)], phase: f.soak.phase.Load()}
	x.load = payloads()[0]
	if x.kind != get {
		x.load = payloads()[random.IntN(len(payloads()))]
	}
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), requestKey{}, x), time.Minute)
	defer cancel()
	if random.IntN(10) == 0 {
		timer := time.AfterFunc(time.Duration(random.IntN(30_000))*time.Microsecond, func() { x.giveUp(); cancel() })
		defer timer.Stop()
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		conn := info.Conn
		if over, ok := conn.(*tls.Conn); ok {
			conn = over.NetConn()
		}
		x.used(conn.(*wire))
	}})
	status, text, err := f.do(x.http(ctx, f, random.IntN(2) == 0))
	f.judge(ctx, x, status, text, err)
}

// http makes the request as net/http has it.
func (x *request) http(ctx context.Context, f *fleet, sized bool) *http.Request {
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, f.api.url, nil)
	req.Header.Set("X-Sum", x.load.sum)
	req.Header.Set("X-Size", strconv.Itoa(len(x.load.data)))
	if x.kind == get {
		return req
	}
	req.Method = http.MethodPost
	req.Body = &body{Reader: bytes.NewReader(x.load.data), soak: f.soak}
	f.soak.opened.Add(1)
	if x.kind == getter || sized {
		req.ContentLength = int64(len(x.load.data))
	}
	if x.kind == getter {
		req.GetBody = func() (io.ReadCloser, error) {
			return &body{Reader: bytes.NewReader(x.load.data), soak: f.soak, copied: true}, nil
		}
	}
	return req
}

func (f *fleet) do(req *http.Request) (status int, text string, err error) {
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// judge counts what became of a request. The test fails if that is not explained
// by what happened to this very request, or while it was under way.
func (f *fleet) judge(ctx context.Context, x *request, status int, text string, err error) {
	s := f.soak
	troubled := func(by trouble) bool { return s.troubled[by].Load() >= x.phase }
	tooLarge := x.kind == stream && len(x.load.data) > recorded
	_, ours := errors.AsType[*transport.Error](err)
	switch {
	case err == nil && status == 200 && text == x.load.sum:
		s.succeeded.Add(1)
	case errors.Is(ctx.Err(), context.Canceled) && errors.Is(err, context.Canceled):
		s.cancelled.Add(1)
	case err == nil && status == 401 && (tooLarge || troubled(refusal)):
		s.refused.Add(1)
	case err == nil && status == 401 && f.bound && x.kind == get && x.hits() > 1:
		s.refused.Add(1) // net/http sent two of its proofs twice
	case ours && troubled(noToken):
		s.tokenless.Add(1)
	case err != nil && !ours && x.hit(f.api, err):
		s.broke.Add(1)
	case errors.Is(err, context.Canceled) && !ours && f.api.config == nil && x.left():
		// With HTTP/1.1, net/http hands on a connection whose answer has no body before
		// it has answered, and ends it if that caller gives up then (as in go.dev/issue/41600).
		s.broke.Add(1)
	default:
		s.fail("%s, %s of %d bytes: status %d, error %v, which nothing explains", f.name, x.kind, len(x.load.data), status, err)
	}
	if n := x.sent.Load(); n > f.most {
		s.fail("%s: a request was sent %d times, want at most %d", f.name, n, f.most)
	}
}

// well sends requests until one succeeds, and no refresh of the storm goes on or
// has left a pause behind: the token may end before the next.
func (f *fleet) well() error {
	var last string
	if !eventually(func() bool {
		x := &request{kind: get, load: payloads()[0]}
		status, _, err := f.do(x.http(context.WithValue(context.Background(), requestKey{}, x), f, false))
		last = fmt.Sprint(status, " ", err)
		if errors.Is(err, tokensource.ErrReauthenticate) && !f.bound && f.soak.repliesLost.Load() {
			f.login()
		}
		return status == 200 && !f.ailing.Load()
	}) {
		return fmt.Errorf("%s has not recovered: %s", f.name, last)
	}
	return nil
}
