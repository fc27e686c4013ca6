// Package servers drives the library against real authorization servers, started
// on loopback for the time of a test. It has nothing but tests.
//
// At each server a client logs in. 20 callers send 200 requests through at least
// five expiries and two revocations of the access token: none may fail. Then the
// login ends: every caller must get ErrReauthenticate within 3 s, after at most two
// token requests with the dead token, and Cache.Set with a new login must heal it.
// The requests go to a resource of the server's own. Where the server binds tokens
// to a key (DPoP), all of this happens again with one.
//
//	go test -v . -servers oidc-provider
//	go test -v . -servers all
//
// The servers of npm and Go are installed at the versions of their lock files, into
// a temporary folder. glewlwyd is the Debian package, and needs python3. A server
// that the flag names must be there. Access tokens live 2 or 3 s, so the suite needs a
// machine that does nothing else.
//
// The last lines are the rows of the table in docs/servers.md. A row that the page
// does not have fails the test; the versions may differ.
package servers
