// Package tokentest runs a real OAuth authorization server and a protected API on the
// loopback interface, for the tests of programs that use tokens. Begin with [NewServer]
// and [Server.Counts]:
//
//	srv := tokentest.NewServer(t)
//	srv.SetLifetime(2*time.Second, 0)
//	client := newServiceClient(srv.TokenURL(), srv.ClientID, srv.ClientSecret, srv.RefreshToken())
//	if _, err := client.Get(srv.APIURL()); err != nil {
//		t.Error(err)
//	}
//	if n := srv.Counts().Rotations; n != 1 {
//		t.Errorf("%d refreshes, want 1", n)
//	}
//
// The server behaves as strict servers do. Its access tokens are signed JWTs. Its
// refresh tokens work once: each refresh returns a new one, and sending a spent one
// again revokes everything that came from the same login. Clients get tokens by two
// interfaces, which share their refresh tokens:
//
//   - [Server.TokenURL] follows RFC 6749, with the grants refresh_token,
//     client_credentials, jwt-bearer (RFC 7523) and token-exchange (RFC 8693). A client
//     that knows only [Server.URL] finds it by the server's metadata (RFC 8414).
//   - [Server.LoginURL] and [Server.RefreshURL] are a custom JSON interface with a
//     user's name and password.
//
// The API at [Server.APIURL] refuses a dead token with 401 and a challenge, by RFC
// 6750. The API at [Server.LegacyURL] answers 403 without a challenge. [Server.Protect]
// and [Server.ProtectForbidden] do the same for your own handler. [Server.Subject]
// returns the user of a token.
//
// [Server.TrustKey] makes the server trust a key whose signature authenticates the
// client or grants a token. A client that sends DPoP proofs (RFC 9449) gets tokens that
// are bound to its key; [Server.SetDPoP] makes the server demand proofs and nonces. The
// server refuses the second use of anything that is valid once, such as a proof.
//
// You can make everything go wrong while the server runs: tokens expire
// ([Server.SetLifetime], [Server.ExpireRefresh]) or are revoked ([Server.RevokeAccess],
// [Server.RevokeAll]), nonces go stale ([Server.ExpireNonces]), and token requests are
// slow ([Server.SetLatency]) or fail ([Server.Fail]). [Server.Counts] says what the
// server saw.
package tokentest

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A Server is an authorization server and an API that trusts it. Make one with
// [NewServer] or [Start]. All methods are safe for concurrent use until Close returns.
type Server struct {
	// URL is where the server listens, without a slash at the end:
	// http://127.0.0.1:port. It is also the issuer (iss) of the access tokens. You must
	// not change this field or the next four.
	URL string

	// ClientID and ClientSecret are those of the only OAuth client that the server
	// knows. They contain characters that arrive wrong unless the client encodes them
	// by RFC 6749 section 2.3.1.
	ClientID, ClientSecret string

	// Username and Password are those of the only user that the server knows. They
	// contain characters that arrive wrong unless JSON is encoded properly.
	Username, Password string

	http   *http.Server
	stop   context.CancelFunc
	active sync.WaitGroup // the accept loop, and each connection
	key    []byte

	// mu guards what follows. It is never held during I/O, signing, or reading random
	// numbers.
	mu       sync.Mutex
	ledger   ledger
	latency  time.Duration
	failures []Failure
	counts   Counts

	trusted    []crypto.PublicKey
	assertions spentIDs
	proofs     spentIDs
	dpop       DPoP
	nonceEpoch uint64 // nonces of an earlier epoch are stale
}

// NewServer starts a server for a test, and closes it when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := Start()
	t.Cleanup(s.Close)
	return s
}

// Start starts a server on a free port of the loopback interface, for programs that are
// not tests. You must call Close. Start panics if it cannot listen.
func Start() *Server {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Sprintf("tokentest: cannot listen on loopback: %v", err))
	}
	s := &Server{
		URL:          "http://" + listener.Addr().String(),
		ClientID:     "client id:+%",
		ClientSecret: "client secret:/&=?+%é",
		Username:     `user "name" \é`,
		Password:     `pass "word" \é&+%`,
		key:          make([]byte, 32),
		ledger:       newLedger(),
		assertions:   newSpentIDs(),
		proofs:       newSpentIDs(),
	}
	rand.Read(s.key)
	s.serve(listener)
	return s
}

func (s *Server) serve(listener net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.http = &http.Server{
		Handler:     s.handler(),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState:   s.track,
	}
	s.active.Go(func() { s.http.Serve(listener) })
}

// track counts a new connection before the accept loop can end, so that active cannot
// reach zero while Close must wait for a connection.
func (s *Server) track(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.active.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.active.Done()
	}
}

// Close cuts all connections, ends requests that hang or wait, and returns when the
// server has no goroutine left. A second call does nothing.
func (s *Server) Close() {
	s.stop()
	s.http.Close()
	s.active.Wait()
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.metadata)
	mux.Handle("POST /token", s.endpoint(s.token))
	mux.Handle("POST /login", s.endpoint(s.login))
	mux.Handle("POST /refresh", s.endpoint(s.refresh))
	mux.Handle("/api", s.Protect(http.HandlerFunc(digest)))
	mux.Handle("/legacy", s.ProtectForbidden(http.HandlerFunc(digest)))
	return mux
}

// metadata serves the metadata of RFC 8414.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"issuer":                                s.URL,
		"token_endpoint":                        s.TokenURL(),
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "private_key_jwt"},
	})
}
