package servers_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

var names = flag.String("servers", "", "which servers to run: names with commas in between, or all")

// lifetime is how long access tokens are good, at least; some live a second longer.
const lifetime = 2 * time.Second

// A server is one under test.
type server struct {
	name  string
	start func(*testing.T) *site
}

// A site is a running server, as a client of it sees it.
type site struct {
	version string
	source  tokensource.RefreshToken            // as docs/servers.md has it
	login   func(*testing.T) *tokensource.Token // a new login
	api     string                              // a resource of the server's
	refused func(*http.Response) bool           // its refusals, if Auth needs to be told
	revoke  func(token string)                  // at the server's revocation endpoint
	alone   func(access string)                 // revokes an access token and no login, if revoke does not
}

func chosen(t *testing.T) (some []server) {
	if *names == "" {
		t.Skip("-servers names none")
	}
	for _, s := range servers {
		if *names == "all" || strings.Contains(","+*names+",", ","+s.name+",") {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		t.Fatalf("no server %q", *names)
	}
	return some
}

func TestServers(t *testing.T) {
	page, err := os.ReadFile("../../../docs/servers.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, s := range chosen(t) {
		t.Run(s.name, func(t *testing.T) {
			at := s.start(t)
			found := at.observe(t)
			at.live(t, nil)
			if strings.HasSuffix(found, "| yes") {
				at.live(t, newKey(t))
			}
			row := fmt.Sprintf("| %s |", found)
			if !strings.Contains(string(page), row) {
				t.Errorf("docs/servers.md has no row with %s", row)
			}
			rows = append(rows, fmt.Sprintln("|", s.name, "|", at.version, row))
		})
	}
	fmt.Print(strings.Join(rows, ""))
}

// observe returns what the server does with a dead refresh token, an expired or
// revoked access token, a rotation, and a refresh token that is sent twice.
func (at *site) observe(t *testing.T) string {
	first := at.login(t)
	second := at.refresh(t, first)
	rotates := "not rotated"
	if second.RefreshToken != first.RefreshToken {
		rotates = "rotated"
	}
	again := at.reuse(first, second)
	lifetime := "no"
	if !second.Expiry.IsZero() {
		lifetime = "yes"
	}
	over := at.refresh(t, at.login(t))
	at.revoke(over.RefreshToken)
	_, err := at.source.Token(context.Background(), over)
	return fmt.Sprintf("%s | %s | %s | %s; %s | %s | %s | %s",
		refusal(err), at.stranger(t), at.outlived(t), rotates, again, lifetime, at.revoked(t), at.bound(t))
}

// outlived says how the API refuses an access token that has expired, and one that
// is revoked.
func (at *site) outlived(t *testing.T) string {
	token := at.refresh(t, at.login(t))
	time.Sleep(lifetime + 2*time.Second)
	expired := "still good after a second"
	if resp := at.ask(t, token); resp.StatusCode != http.StatusOK {
		expired = said(resp)
	}
	token = at.refresh(t, at.login(t))
	if resp := at.ask(t, token); resp.StatusCode != http.StatusOK {
		t.Errorf("a good token: %s", said(resp))
	}
	at.spoil(token.AccessToken)
	if revoked := said(at.ask(t, token)); revoked != expired {
		return fmt.Sprintf("%s; revoked: %s", expired, revoked)
	}
	return expired
}

// spoil revokes an access token, and leaves its login.
func (at *site) spoil(access string) {
	if at.alone != nil {
		at.alone(access)
	} else {
		at.revoke(access)
	}
}

// ask uses the API with a token, whatever its answer.
func (at *site) ask(t *testing.T, token *tokensource.Token) *http.Response {
	return request(t, "GET", at.api, nil, func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+token.AccessToken) })
}

// bound says whether the server binds tokens to a client's key.
func (at *site) bound(t *testing.T) string {
	source := at.source
	source.Endpoint.Client = &http.Client{Transport: proving(newKey(t), http.DefaultTransport)}
	token, err := source.Token(t.Context(), at.login(t))
	switch {
	case err != nil:
		return refusal(err)
	case token.TokenType == "DPoP":
		return "yes"
	}
	return "no"
}

func newKey(t *testing.T) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// stranger says what a client with a wrong secret is told.
func (at *site) stranger(t *testing.T) string {
	source := at.source
	if source.Endpoint.ClientSecret == "" {
		return "–"
	}
	source.Endpoint.ClientSecret = "wrong"
	_, err := source.Token(t.Context(), at.login(t))
	return refusal(err)
}

// revoked says what the revocation of an access token does to its login.
func (at *site) revoked(t *testing.T) string {
	token := at.refresh(t, at.login(t))
	at.revoke(token.AccessToken)
	if _, err := at.source.Token(t.Context(), token); err != nil {
		return "ends the login"
	}
	return "the login stays"
}

func (at *site) refresh(t *testing.T, old *tokensource.Token) *tokensource.Token {
	t.Helper()
	token, err := at.source.Token(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// reuse says what becomes of a refresh token that is sent again, and of the login.
func (at *site) reuse(spent, next *tokensource.Token) string {
	if spent.RefreshToken == next.RefreshToken {
		return "works many times"
	}
	if _, err := at.source.Token(context.Background(), spent); err == nil {
		return "works again for a while"
	}
	if _, err := at.source.Token(context.Background(), next); err != nil {
		return "sent twice: the login ends"
	}
	return "sent twice: refused, the login stays"
}

// refusal is what an error says of the server's reply.
func refusal(err error) string {
	e, ok := errors.AsType[*tokensource.EndpointError](err)
	switch {
	case !ok:
		return fmt.Sprint("no refusal: ", err)
	case e.Code == "":
		return fmt.Sprintf("%d without a code", e.StatusCode)
	}
	return fmt.Sprintf("%d `%s`", e.StatusCode, e.Code)
}
