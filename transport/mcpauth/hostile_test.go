package mcpauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

const otherURL = "https://other.example/mcp"

// get sends a GET, and returns the status or an error.
func get(ctx context.Context, a http.RoundTripper, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := a.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// The configuration names another server, or two servers have the same key. The stored token has expired, or not.
func TestAStoredTokenOfAnotherServerIsNotUsed(t *testing.T) {
	for _, age := range []time.Duration{0, 2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w, m := newWorld(), new(storetest.Memory)
			if err := do(t.Context(), w.stored(m)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(age)
			var got []string
			w.HandleFunc("other.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
				if got = append(got, r.Header.Get("Authorization")); got[len(got)-1] == "" {
					rw.WriteHeader(401)
				}
			})
			w.json("other.example/.well-known/oauth-protected-resource/mcp", strings.ReplaceAll(metadataOf, "%", otherURL))
			a := w.stored(m)
			a.Server = otherURL
			if _, err := get(t.Context(), a, otherURL); err != nil || !slices.Equal(got, []string{"", "Bearer hush-hush-2"}) {
				t.Errorf("after %v: the other server got %q, and the error is %v; want a token of its own", age, got, err)
			}
			for _, form := range w.forms {
				if form.Has("refresh_token") {
					t.Errorf("after %v: got the refresh %v, want none", age, form)
				}
			}
		})
	}
}

// A login takes place while the other origin keeps its answer back.
func TestAnotherOriginDoesNotSayWhereToLogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var asked []string
		w.HandleFunc("other.example/", func(rw http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path)
			time.Sleep(time.Second)
			rw.Header().Set("WWW-Authenticate", `Bearer resource_metadata="https://other.example/metadata"`)
			rw.WriteHeader(401)
		})
		var tokens *tokensource.Cache
		a := w.auth()
		a.Cache = func(source tokensource.Source) *tokensource.Cache {
			tokens = &tokensource.Cache{Source: source}
			return tokens
		}
		go func() {
			if err := do(t.Context(), a); err != nil {
				t.Error(err)
			}
		}()
		_, err := get(t.Context(), a, otherURL)
		wantRefusal(t, "another origin", err, 401, false)
		tokens.Forget(t.Context())
		time.Sleep(3 * time.Second)
		if err := do(t.Context(), a); err != nil || !slices.Equal(asked, []string{"/mcp"}) || w.logins.Load() != 2 {
			t.Errorf("got %v after %d logins, and the other origin was asked for %v; want 2 logins and one request", err, w.logins.Load(), asked)
		}
	})
}

// Answers from elsewhere do not show that a login has helped.
func TestAnswersToRequestsWithoutATokenDoNotHastenLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.refuse, w.token = func(string) bool { return true }, noRefresh
		w.HandleFunc("other.example/", func(http.ResponseWriter, *http.Request) {})
		a := w.auth()
		for range 2400 {
			do(t.Context(), a)
			if _, err := get(t.Context(), a, otherURL); err != nil {
				t.Fatal(err)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if n := w.logins.Load(); n < 1 || n > 10 {
			t.Errorf("%d logins in 10 minutes, want at most 10", n)
		}
	})
}

// demand lets the server demand a scope of requests with a token of the first login.
func (w *world) demand(metadata string) {
	w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
		if token := r.Header.Get("Authorization"); token == "Bearer hush-hush-1" || token == "Bearer mcp" {
			rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="c", resource_metadata="`+metadata+`"`)
			rw.WriteHeader(403)
		}
	})
}

func TestWhatAServerSaysOfItsMetadataIsShownWithoutTheTokenAndInShort(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"the token in the URL": func(w *world) { w.demand(named + "?for=hush-hush-1") },
		"a long name":          func(w *world) { w.demand(named) },
	} {
		w := newWorld()
		a := w.auth()
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		w.json("GET mcp.example/metadata", `{"resource": "`+strings.Repeat("x", 100_000)+`"}`)
		prepare(w)
		err := do(t.Context(), a)
		wantRefusal(t, name, err, 403, true)
		if n := len(err.Error()); n > 2000 {
			t.Errorf("%s: the error has %d bytes, want at most 2000", name, n)
		}
	}
}

// The token is part of the URL of the metadata.
func TestAShortTokenDoesNotSpoilAChallenge(t *testing.T) {
	w := newWorld()
	a := w.auth()
	a.Login = func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) {
		return &tokensource.Token{AccessToken: []string{"mcp", "mcp2"}[w.logins.Add(1)-1]}, nil
	}
	w.refuse = func(string) bool { return false }
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.demand(named)
	if err := do(t.Context(), a); err != nil || w.logins.Load() != 2 {
		t.Errorf("got %v after %d logins, want no error and another login for the scope", err, w.logins.Load())
	}
}

func TestTheOriginOfTheServerMayBeSpelledDifferently(t *testing.T) {
	w := newWorld()
	a := w.auth()
	a.Server = "https://mcp.example:443/mcp"
	w.json("GET mcp.example/metadata", strings.ReplaceAll(metadataOf, "%", a.Server))
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.demand(named)
	if err := do(t.Context(), a); err != nil || w.logins.Load() != 2 {
		t.Errorf("got %v after %d logins, want no error and another login for the scope", err, w.logins.Load())
	}
}

// The store fails after the login, which is not lost while the process lives.
func TestALoginWhoseTokenIsNotStoredSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, full := newWorld(), new(full)
		a := w.auth()
		a.Cache = func(source tokensource.Source) *tokensource.Cache {
			return &tokensource.Cache{Source: &tokensource.Stored{Source: source, Store: full, Key: "user"}}
		}
		a.Login = func(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
			full.Bool.Store(true)
			return w.login(ctx, d)
		}
		if err := do(t.Context(), a); err != nil || w.logins.Load() != 1 {
			t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
		}
	})
}

// A full Store can be read, but not written.
type full struct {
	storetest.Memory
	atomic.Bool
}

func (f *full) Load(ctx context.Context, key string) ([]byte, error) { return f.Memory.Load(ctx, key) }

func (f *full) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if f.Bool.Load() {
		return errors.New("the disk is full")
	}
	return f.Memory.Update(ctx, key, fn)
}

func TestAServerThatIsNoURLIsAnErrorThatNamesTheField(t *testing.T) {
	for _, server := range []string{"", "mcp.example/mcp", "://", "https://user:hush-hush@mcp.example/mcp"} {
		a := newWorld().auth()
		a.Server = server
		err := do(t.Context(), a)
		wantRefusal(t, server, err, 0, false)
		if !strings.Contains(err.Error(), "Auth.Server") {
			t.Errorf("%q: got %v, want that Auth.Server is wrong", server, err)
		}
	}
}

// The server accepts each second request, so that each login seems to have helped.
func TestScopesWithoutEndEndTheLogins(t *testing.T) {
	w := newWorld()
	a := w.auth()
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
		if n := n.Add(1); n%2 == 1 {
			rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_scope", scope="scope%d", resource_metadata="%s"`, n, named))
			rw.WriteHeader(403)
		}
	})
	for range 200 {
		do(t.Context(), a)
	}
	if n := w.logins.Load(); n != 99 {
		t.Errorf("%d logins, want 99: for the first two scopes, and for each until there are 100", n)
	}
}

// A request with an Authorization header of its own concerns no login.
func TestARequestWithItsOwnAuthorizationIsLeftAlone(t *testing.T) {
	for _, name := range []string{"Authorization", "authorization"} {
		w := newWorld()
		a := w.auth()
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		w.HandleFunc("GET mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="c"`)
			rw.WriteHeader(403)
		})
		req, _ := http.NewRequest(http.MethodGet, serverURL, nil)
		req.Header[name] = []string{"Basic own"}
		resp, err := a.RoundTrip(req)
		if err != nil || resp.StatusCode != 403 || w.logins.Load() != 1 {
			t.Errorf("%s: got %v after %d logins, want the status 403 and 1 login", name, err, w.logins.Load())
		}
	}
}

// A login must end with its context. If it goes on, it blocks only those who wait for it.
func TestALateLoginIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		a.Login = func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) {
			time.Sleep(time.Hour)
			w.issued++
			return &tokensource.Token{AccessToken: "hush-hush-1"}, nil
		}
		if err := do(t.Context(), a); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
}
