package transport_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// Refusals that only the body tells, and a rule for each.
var bodyRefusals = map[string]struct {
	status int
	body   string
	rule   func(*http.Response) bool
}{
	"400 with an error": {400, `{"error":"ExpiredToken","message":"Token has expired"}`, func(resp *http.Response) bool {
		return resp.StatusCode == 400 && transport.HasJSON(resp, "error", "ExpiredToken")
	}},
	"200 with an error": {200, `{"ok":false,"error":"token_expired"}`, func(resp *http.Response) bool {
		return transport.HasJSON(resp, "error", "token_expired", "token_revoked")
	}},
	"200 of GraphQL": {200, `{"errors":[{"message":"expired","extensions":{"path":"$","code":"invalid-jwt"}}]}`, func(resp *http.Response) bool {
		return transport.HasJSON(resp, "errors.extensions.code", "invalid-jwt")
	}},
	"403 with a list": {403, `{"errors":["permission denied","invalid token"]}`, func(resp *http.Response) bool {
		return resp.StatusCode == 403 && transport.HasJSON(resp, "errors", "invalid token")
	}},
	"400 with a text in a list": {400, `{"errors":["2 errors occurred:\n\t* invalid token\n\n"]}`, func(resp *http.Response) bool {
		return strings.Contains(string(transport.PeekJSON(resp)), "invalid token")
	}},
	"400 with a number": {400, `{"code":99991677,"msg":"expired"}`, func(resp *http.Response) bool {
		return transport.HasJSON(resp, "code", "99991677")
	}},
}

func TestARefusalThatOnlyTheBodyTellsIsCured(t *testing.T) {
	for name, c := range bodyRefusals {
		for _, protocol := range protocols {
			url, base := serveOver(t, protocol, func(w http.ResponseWriter, r *http.Request) {
				text, err := io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/json")
				if r.Header.Get("Authorization") == "Bearer old" {
					w.WriteHeader(c.status)
					io.WriteString(w, c.body)
					return
				}
				fmt.Fprintf(w, `{"ok":true,"got":%d}`, len(text))
				if err != nil {
					t.Error(err)
				}
			})
			data, _ := noise(100 * kib)
			auth := &transport.Auth{Source: oldThenNew, Base: base, Refused: c.rule}
			if got := getsStatus(t, auth, postBody(t, url, data), 200); got != `{"ok":true,"got":102400}` {
				t.Errorf("%s, %s: got %s, want the second answer", name, protocol, got)
			}
		}
	}
}

func TestARefusalThatNothingCuresReachesTheCallerWhole(t *testing.T) {
	for name, c := range bodyRefusals {
		auth := &transport.Auth{Source: oldThenNew, Refused: c.rule, Base: roundTrip(func(*http.Request) (*http.Response, error) {
			return jsonAnswer(c.status, c.body), nil
		})}
		if got := getsStatus(t, auth, postBody(t, "https://api.example", nil), c.status); got != c.body {
			t.Errorf("%s: got %q, want %q", name, got, c.body)
		}
	}
}

// An API that refuses every token causes as few refreshes, whatever it refuses with.
func TestARefusalInABodyCountsLikeA401(t *testing.T) {
	refreshes := map[int]int32{}
	for _, status := range []int{401, 200} {
		synctest.Test(t, func(t *testing.T) {
			tokens := new(issuer)
			auth := &transport.Auth{Source: &tokensource.Cache{Source: tokens}, Refused: expired}
			auth.Base = roundTrip(func(*http.Request) (*http.Response, error) {
				time.Sleep(5 * time.Millisecond)
				return jsonAnswer(status, `{"ok":false,"error":"token_expired"}`), nil
			})
			for range 1000 {
				getsStatus(t, auth, postBody(t, "https://api.example", nil), status)
			}
			refreshes[status] = tokens.issued.Load()
		})
	}
	if refreshes[200] != refreshes[401] || refreshes[200] > 6 {
		t.Errorf("got %v token requests by status, want as few for both", refreshes)
	}
}

// Reading the beginning to its end has put the connection back, which the server is about to close.
func TestAnUploadIsSentAgainOverAnotherConnectionThanItsRefusalInABody(t *testing.T) {
	const refusal = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 25\r\n\r\n" + `{"error":"token_expired"}`
	url := (&hasty{refusal: refusal}).listen(t)
	bottom := &http.Transport{}
	defer bottom.CloseIdleConnections()
	auth := &transport.Auth{Source: oldThenNew, Base: bottom, Refused: expired}
	for range 30 {
		data, _ := noise(256 * kib)
		getsStatus(t, auth, postBody(t, url, data), 200)
	}
}

// So nobody notices. It takes a rule about something else that tells.
func TestAnExpiredTokenThatIsAnsweredAsIfThereWereNoneIsARefusalByARuleOnly(t *testing.T) {
	for name, c := range map[string]struct {
		rule func(*http.Response) bool
		want string
	}{
		"none":   {nil, `{"viewer":"anonymous","items":[1]}`},
		"a rule": {func(resp *http.Response) bool { return transport.HasJSON(resp, "viewer", "anonymous") }, `{"viewer":"me","items":[1,2,3]}`},
	} {
		auth := &transport.Auth{Source: oldThenNew, Refused: c.rule, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") == "Bearer old" {
				return jsonAnswer(200, `{"viewer":"anonymous","items":[1]}`), nil
			}
			return jsonAnswer(200, `{"viewer":"me","items":[1,2,3]}`), nil
		})}
		if got := getsStatus(t, auth, postBody(t, "https://api.example", nil), 200); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// idleClosing is a server whose idle connections can be closed, and a transport that
// tells when it has noticed.
type idleClosing struct {
	*httptest.Server
	base    *http.Transport
	noticed chan struct{}
	mu      sync.Mutex
	idle    net.Conn
	became  chan struct{}
}

func newIdleClosing(t *testing.T) *idleClosing {
	s := &idleClosing{noticed: make(chan struct{}, 10), became: make(chan struct{}, 10)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle {
			s.mu.Lock()
			s.idle = c
			s.mu.Unlock()
			s.became <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	s.base = &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &noticing{c, sync.OnceFunc(func() { s.noticed <- struct{}{} })}, err
	}}
	t.Cleanup(s.base.CloseIdleConnections)
	return s
}

// closeIdle closes the idle connection, and waits until the client knows.
func (s *idleClosing) closeIdle() {
	<-s.became
	s.mu.Lock()
	s.idle.Close()
	s.mu.Unlock()
	<-s.noticed
}

type noticing struct {
	net.Conn
	closed func()
}

func (n *noticing) Close() error { n.closed(); return n.Conn.Close() }

// postAfterIdle sends a request, and an upload without GetBody once the server has
// closed the connection: before the upload, or when it has been given that connection.
func postAfterIdle(t *testing.T, taken bool, over func(http.RoundTripper) http.RoundTripper) (string, error) {
	s := newIdleClosing(t)
	rt := over(s.base)
	getsStatus(t, rt, postBody(t, s.URL, nil), 200)
	ctx := t.Context()
	if taken {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
			if c.Reused {
				s.closeIdle()
			}
		}})
	} else {
		s.closeIdle()
	}
	data, _ := noise(100 * kib)
	resp, err := rt.RoundTrip(postBody(t, s.URL, data).WithContext(ctx))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// A server that closes connections after 5 s meets uploads that have just been
// given one. net/http fails then, for it can't know what the server has read, and so
// does Auth: to have recorded the body changes nothing.
func TestAnUploadOverAConnectionThatTheServerHasClosedFaresAsWithoutAuth(t *testing.T) {
	for _, taken := range []bool{false, true} {
		want, wantErr := postAfterIdle(t, taken, func(base http.RoundTripper) http.RoundTripper { return base })
		got, err := postAfterIdle(t, taken, func(base http.RoundTripper) http.RoundTripper {
			return &transport.Auth{Source: tokensource.Static(bodyOldToken), Base: base}
		})
		if got != want || fmt.Sprint(err) != fmt.Sprint(wantErr) || taken != (err != nil) {
			t.Errorf("taken: %t: got %q and %v, without Auth %q and %v", taken, got, err, want, wantErr)
		}
	}
}
