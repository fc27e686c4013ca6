package mcpauth_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// slowly makes a login take 3 s.
func slowly(login func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error)) func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) {
	return func(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
		time.Sleep(3 * time.Second)
		return login(ctx, d)
	}
}

// together sends 20 requests at once, and returns their errors.
func together(a http.RoundTripper) []error {
	errs := make([]error, 20)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = do(context.Background(), a) })
	}
	all.Wait()
	return errs
}

func TestOneLoginServesAllRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		a.Login = slowly(w.login)
		if err := errors.Join(together(a)...); err != nil || w.logins.Load() != 1 {
			t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
		}
		want := url.Values{"client_id": {"registered"}, "client_secret": {"hush-hush-secret"}, "code": {"1"},
			"grant_type": {"authorization_code"}, "resource": {serverURL}}
		if len(w.forms) != 1 || w.forms[0].Encode() != want.Encode() {
			t.Errorf("got the token requests %v, want %v", w.forms, want)
		}
	})
}

// The context of a login ends, and so do the requests for metadata.
func TestALoginEndsByItself(t *testing.T) {
	for what, c := range map[string]struct {
		prepare func(*world, *mcpauth.Auth)
		want    time.Duration
	}{
		"a user who does nothing": {func(_ *world, a *mcpauth.Auth) {
			a.Login = func(ctx context.Context, _ *mcpauth.Discovery) (*tokensource.Token, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, 5 * time.Minute},
		"metadata that do not come": {func(w *world, _ *mcpauth.Auth) {
			w.HandleFunc("GET mcp.example/metadata", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			a := w.auth()
			c.prepare(w, a)
			began := time.Now()
			err := do(t.Context(), a)
			if took := time.Since(began); !errors.Is(err, tokensource.ErrReauthenticate) || took != c.want {
				t.Errorf("%s: got %v after %v, want ErrReauthenticate after %v", what, err, took, c.want)
			}
		})
	}
}

// While a login is in progress, requests wait, and none goes without a token. Those that went before get their
// challenges late.
func TestRequestsThatWentBeforeTheLoginUseIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		a.Login = slowly(w.login)
		var anonymous atomic.Int32
		w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				time.Sleep([]time.Duration{time.Second, 6 * time.Second}[anonymous.Add(1)-1])
			}
			w.answer(rw, r)
		})
		var all sync.WaitGroup
		for _, wait := range []time.Duration{0, 0, 2 * time.Second} {
			all.Go(func() {
				time.Sleep(wait)
				if err := do(t.Context(), a); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if w.logins.Load() != 1 || anonymous.Load() != 2 {
			t.Errorf("%d logins and %d requests without a token, want 1 and 2", w.logins.Load(), anonymous.Load())
		}
	})
}

func TestALoginDoesNotDependOnTheRequestThatNeededIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		a.Login = slowly(w.login)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := do(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that the context has ended", err)
		}
		if err := do(t.Context(), a); err != nil || w.logins.Load() != 1 {
			t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
		}
	})
}

func TestAFailedLoginIsSharedAndNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.failing.Store(true)
		a := w.auth()
		a.Login = slowly(w.login)
		for i, err := range append(together(a), do(t.Context(), a)) {
			if !errors.Is(err, errNoBrowser) || !errors.Is(err, tokensource.ErrReauthenticate) {
				t.Errorf("request %d: got %v, want ErrReauthenticate and the login's error", i, err)
			}
		}
		if n := w.logins.Load(); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
		time.Sleep(2 * time.Second)
		w.failing.Store(false)
		if err := errors.Join(together(a)...); err != nil || w.logins.Load() != 2 {
			t.Errorf("got %v after %d logins, want no error and 2 logins", err, w.logins.Load())
		}
	})
}

// Pauses of 2, 4, … 128 s leave room for ten logins.
func TestLoginsThatDoNotHelpAreRare(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"they fail":                      func(w *world) { w.failing.Store(true) },
		"the server accepts no token":    func(w *world) { w.refuse = func(string) bool { return true } },
		"nor can the token be refreshed": func(w *world) { w.refuse, w.token = func(string) bool { return true }, noRefresh },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				prepare(w)
				a := w.auth()
				for range 2400 {
					if do(t.Context(), a) == nil {
						t.Fatal("a request succeeded")
					}
					time.Sleep(250 * time.Millisecond)
				}
				if n, requests := w.logins.Load(), len(w.forms); n < 1 || n > 10 || requests > 25 {
					t.Errorf("%d logins and %d token requests in 10 minutes, want at most 10 and 25", n, requests)
				}
			})
		})
	}
}

// noRefresh refuses refresh tokens.
func noRefresh(form url.Values) string {
	if form.Get("grant_type") == "refresh_token" {
		return `{"error": "invalid_grant"}`
	}
	return ""
}

func TestADeleteBeginsNoLogin(t *testing.T) {
	w := newWorld()
	req, _ := http.NewRequest(http.MethodDelete, serverURL, nil)
	_, err := w.auth().RoundTrip(req)
	wantRefusal(t, "DELETE", err, 401, true)
	if n := w.logins.Load(); n != 0 {
		t.Errorf("%d logins, want none", n)
	}
}

func TestALoginThatIsNoGoodIsAnError(t *testing.T) {
	for name, login := range map[string]func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error){
		"Auth.Login is nil": nil,
		"panicked: oh":      func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) { panic("oh") },
		"runtime.Goexit": func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) {
			runtime.Goexit()
			return nil, nil
		},
		"neither a token": func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) { return nil, nil },
		"needs an access": func(context.Context, *mcpauth.Discovery) (*tokensource.Token, error) {
			return new(tokensource.Token), nil
		},
	} {
		a := newWorld().auth()
		a.Login = login
		if err := do(t.Context(), a); err == nil || !strings.Contains(err.Error(), name) || !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestARequestWhoseBodyIsGoneFailsAndTheNextSucceeds(t *testing.T) {
	w := newWorld()
	a := w.auth()
	req, _ := http.NewRequest(http.MethodPost, serverURL, io.MultiReader(strings.NewReader("{}")))
	if _, err := a.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "GetBody") {
		t.Errorf("got %v, want that there is no GetBody", err)
	}
	if err := do(t.Context(), a); err != nil || w.logins.Load() != 1 {
		t.Errorf("got %v after %d logins, want no error and 1 login", err, w.logins.Load())
	}
}

// The authorization server grants nothing more, so that each answer demands the scope again.
func TestAScopeIsAskedForOnce(t *testing.T) {
	w := newWorld()
	var asked [][]string
	a := w.auth()
	a.Login = func(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
		asked = append(asked, d.Scopes)
		return w.login(ctx, d)
	}
	if err := do(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="c", resource_metadata="`+named+`"`)
		rw.WriteHeader(403)
	})
	for range 3 {
		wantRefusal(t, "a scope is missing", do(t.Context(), a), 403, false)
	}
	want := [][]string{{"a", "b"}, {"a", "b", "c"}}
	if !slices.EqualFunc(asked, want, slices.Equal) {
		t.Errorf("Login was told to request %v, want %v", asked, want)
	}
}

// One answer comes so late that the login for the scope is over.
func TestARequestThatWasRefusedForTheTokenBeforeIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		a.Login = slowly(w.login)
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		var late atomic.Bool
		w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer hush-hush-1" {
				return
			}
			if late.Swap(true) {
				time.Sleep(5 * time.Second)
			}
			rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="c", resource_metadata="`+named+`"`)
			rw.WriteHeader(403)
		})
		if err := errors.Join(together(a)...); err != nil || w.logins.Load() != 2 {
			t.Errorf("got %v after %d logins, want no error and 2 logins", err, w.logins.Load())
		}
	})
}

// Requests that need no other scope succeed meanwhile.
func TestAScopeThatTheUserDeniesIsNotAskedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.auth()
		if err := do(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		w.failing.Store(true)
		var denied int
		w.HandleFunc("POST mcp.example/mcp", func(rw http.ResponseWriter, r *http.Request) {
			if denied++; denied%2 == 0 {
				rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="c"`)
				rw.WriteHeader(403)
			}
		})
		for i := range 2400 {
			if err := do(t.Context(), a); (err == nil) != (i%2 == 0) {
				t.Fatalf("request %d: got %v", i, err)
			}
			time.Sleep(250 * time.Millisecond)
		}
		if n := w.logins.Load() - 1; n < 2 || n > 10 {
			t.Errorf("%d logins for the scope in 10 minutes, want at most 10", n)
		}
	})
}

func TestOnlyTheOriginOfTheServerGetsTokensAndLogins(t *testing.T) {
	w := newWorld()
	var got []string
	w.HandleFunc("other.example/", func(rw http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization"))
		rw.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="x", resource_metadata="https://other.example/metadata"`)
		rw.WriteHeader(401)
	})
	a := w.auth()
	for range 2 {
		req, _ := http.NewRequest(http.MethodGet, "https://other.example/", nil)
		_, err := a.RoundTrip(req)
		wantRefusal(t, "another origin", err, 401, false)
		if err := do(t.Context(), a); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, []string{"", ""}) || w.logins.Load() != 1 {
		t.Errorf("another origin got %q, and there were %d logins; want no token and 1", got, w.logins.Load())
	}
}
