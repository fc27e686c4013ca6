// Package tokentest runs a real OAuth authorization server and a protected API
// on the loopback interface, for the tests of programs that carry tokens.
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
// The server behaves as strict servers do. Its access tokens are signed JWTs,
// its refresh tokens work once: each refresh brings a new one, and a spent one
// that is presented again revokes everything that came from the same login.
// It gets tokens by either of two interfaces, which share their refresh tokens:
//
//   - [Server.TokenURL] is RFC 6749, with the grants refresh_token,
//     client_credentials, jwt-bearer (RFC 7523) and token-exchange (RFC 8693).
//     A client that knows [Server.URL] alone finds it by the server's metadata (RFC
//     8414).
//   - [Server.LoginURL] and [Server.RefreshURL] are a home-made JSON interface,
//     with a user's name and password.
//
// The API at [Server.APIURL] refuses a dead token with 401 and a challenge, as
// RFC 6750 has it; the one at [Server.LegacyURL] answers 403 and nothing else.
// [Server.Protect] and [Server.ProtectForbidden] do the same for a handler of
// the caller's own. [Server.Subject] tells whose a token is.
//
// [Server.TrustKey] makes the server trust a key whose signature authenticates
// the client or grants a token. A client that sends DPoP proofs (RFC 9449) gets
// tokens that are bound to its key; [Server.SetDPoP] makes the server demand
// proofs and nonces. What is to be used once, such as a proof, is refused the
// second time.
//
// Everything can be made to go wrong while the server runs: tokens expire
// ([Server.SetLifetime], [Server.ExpireRefresh]), are revoked
// ([Server.RevokeAccess], [Server.RevokeAll]), nonces go stale
// ([Server.ExpireNonces]), and token requests are slow
// ([Server.SetLatency]) or fail ([Server.Fail]). [Server.Counts] tells what
// the server saw.
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

// A Server is an authorization server and an API that trusts it.
// [Start] or [NewServer] makes one; the zero Server is of no use.
// All methods are safe for concurrent use, at any time until Close returns.
type Server struct {
	// URL is where the server listens, without a slash at the end:
	// http://127.0.0.1:port. It is also the issuer (iss) of the access tokens.
	// Do not change this field or the next four.
	URL string

	// ClientID and ClientSecret are the one OAuth client that the server knows.
	// They hold characters that arrive wrong unless the client encodes them
	// as RFC 6749 section 2.3.1 says.
	ClientID, ClientSecret string

	// Username and Password are the one user that the server knows.
	// They hold characters that arrive wrong unless JSON is encoded properly.
	Username, Password string

	http   *http.Server
	stop   context.CancelFunc
	active sync.WaitGroup // the accept loop, and each connection
	key    []byte

	// mu guards what follows. It is never held during I/O, signing, or
	// reading random numbers.
	mu       sync.Mutex
	ledger   ledger
	latency  time.Duration
	failures []Failure
	counts   Counts

	trusted    []crypto.PublicKey
	assertions spentIDs
	proofs     spentIDs
	dpop       DPoP
	nonceEpoch uint64 // nonces of an earlier one are stale
}

// NewServer starts a server for a test, and closes it when the test ends.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := Start()
	t.Cleanup(s.Close)
	return s
}

// Start starts a server on a free port of the loopback interface, for programs
// that are not tests. The caller calls Close. Start panics if it cannot listen.
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

// track runs for a new connection before the accept loop can end, so active
// cannot reach zero while there is a connection that Close must wait for.
func (s *Server) track(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.active.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.active.Done()
	}
}

// Close cuts all connections, ends the requests that hang or wait, and returns
// when the server has no goroutine left. Closing again does nothing.
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

// metadata are what RFC 8414 has clients read.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"issuer":                                s.URL,
		"token_endpoint":                        s.TokenURL(),
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "private_key_jwt"},
	})
}
