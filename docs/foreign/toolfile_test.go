package foreign_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A toolFile is a Source over a credential file that another tool owns and many programs
// share. Put a Cache over it.
//
// A program holds the lock while it spends the refresh token, and so must the tool. The
// lock here is flock on Path + ".lock". Take the one that the tool takes.
type toolFile struct {
	Path  string
	Grant *tokensource.RefreshToken // without a refresh token of its own
}

func (f *toolFile) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if token, _, err := f.read(); err != nil || good(token, old) {
		return token, err
	}
	lock := flock.New(f.Path + ".lock")
	defer lock.Close()
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return nil, err
	}
	token, members, err := f.read() // another program may have been faster
	if err != nil || good(token, old) {
		return token, err
	}
	return f.exchange(ctx, token, members)
}

// exchange has a file for the new token before it spends the refresh token.
func (f *toolFile) exchange(ctx context.Context, token *tokensource.Token, members map[string]json.RawMessage) (*tokensource.Token, error) {
	next, err := os.CreateTemp(filepath.Dir(f.Path), ".next") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(next.Name())
	defer next.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	token, err = f.Grant.Token(ctx, token)
	if err != nil {
		// Not %w: to a Cache ErrReauthenticate is final, but the tool may log in again.
		return nil, fmt.Errorf("the login in %s: %v", f.Path, err)
	}
	for name, value := range map[string]any{
		"access_token": token.AccessToken, "refresh_token": token.RefreshToken, "expires_at": token.Expiry.Unix(),
	} {
		members[name], _ = json.Marshal(value)
	}
	err = errors.Join(json.NewEncoder(next).Encode(members), next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), f.Path)
	}
	return token, err
}

// read returns the token, and all members of the file, of which the tool may have more.
func (f *toolFile) read() (*tokensource.Token, map[string]json.RawMessage, error) {
	data, err := os.ReadFile(f.Path)
	if err != nil {
		return nil, nil, err
	}
	var c struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresAt    int64  `json:"expires_at"` // in seconds; some tools write milliseconds
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || json.Unmarshal(data, &c) != nil {
		return nil, nil, fmt.Errorf("%s is not what the tool writes", f.Path) // the error of json may quote it
	}
	return &tokensource.Token{AccessToken: c.AccessToken, RefreshToken: c.RefreshToken, Expiry: time.Unix(c.ExpiresAt, 0)}, members, nil
}

func good(token, old *tokensource.Token) bool {
	return token.AccessToken != "" && time.Now().Before(token.Expiry) && (old == nil || token.AccessToken != old.AccessToken)
}

// newToolFile writes the file as the tool does after a login.
func newToolFile(t *testing.T, srv *tokentest.Server) string {
	path := filepath.Join(t.TempDir(), "credentials.json")
	logIn(t, srv, path)
	return path
}

func logIn(t *testing.T, srv *tokentest.Server, path string) {
	text := fmt.Sprintf(`{"account":"ann","access_token":"expired","refresh_token":%q,"expires_at":1}`, srv.RefreshToken())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sharing(srv *tokentest.Server, path string) *tokensource.Cache {
	endpoint := tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret}
	return &tokensource.Cache{Source: &toolFile{Path: path, Grant: &tokensource.RefreshToken{Endpoint: endpoint}}}
}

func TestACredentialFileOfAnotherToolIsRotatedOnceForAll(t *testing.T) {
	srv := tokentest.NewServer(t)
	path := newToolFile(t, srv)
	caches, tokens := make([]*tokensource.Cache, 8), make([]*tokensource.Token, 8)
	for i := range caches {
		caches[i] = sharing(srv, path)
	}
	const rounds = 5
	for round := range rounds {
		srv.RevokeAccess()
		var all sync.WaitGroup
		for i := range caches {
			all.Go(func() {
				var err error
				if tokens[i], err = caches[i].Token(t.Context(), tokens[i]); err != nil || srv.Check(tokens[i].AccessToken) != nil {
					t.Errorf("round %d, program %d: got error %v, want a good token", round, i, err)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
	}
	if c := srv.Counts(); c.Rotations != rounds || c.Reuses != 0 {
		t.Errorf("got %d rotations and %d spent refresh tokens presented, want %d and 0", c.Rotations, c.Reuses, rounds)
	}
	data, err := os.ReadFile(path)
	if text := string(data); err != nil || !strings.Contains(text, `"account":"ann"`) || !strings.Contains(text, tokens[0].RefreshToken) {
		t.Errorf("got the file %s, error %v; want the account and the newest refresh token", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".next*")); len(left) > 0 {
		t.Errorf("got %v left over, want nothing", left)
	}
}

func TestALoginOfTheOtherToolHealsThoseThatShareItsFile(t *testing.T) {
	srv := tokentest.NewServer(t)
	path := newToolFile(t, srv)
	source := sharing(srv, path).Source
	srv.RevokeAll()
	token, err := source.Token(t.Context(), nil)
	if err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("got %v, error %v; want an error that is not final", token, err)
	}
	logIn(t, srv, path)
	if token, err := source.Token(t.Context(), nil); err != nil || srv.Check(token.AccessToken) != nil {
		t.Errorf("after a login: got error %v, want a good token", err)
	}
}

// Without a place for the new refresh token the old one is not spent.
func TestACredentialFileThatCannotBeReplacedCostsNoRefreshToken(t *testing.T) {
	srv := tokentest.NewServer(t)
	path := newToolFile(t, srv)
	toDelete := filepath.Dir(path)
	source := &toolFile{Path: path, Grant: &tokensource.RefreshToken{}}
	token, members, err := source.read()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(toDelete); err != nil {
		t.Fatal(err)
	}
	before := srv.Counts().TokenRequests
	if _, err := source.exchange(t.Context(), token, members); err == nil || srv.Counts().TokenRequests != before {
		t.Errorf("got error %v and %d token requests, want an error and none", err, srv.Counts().TokenRequests-before)
	}
}
