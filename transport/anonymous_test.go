package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// beforeLogin allows requests without a token until there was one.
func beforeLogin(_ *http.Request, had bool) bool { return !had }

// noLogin is a Cache that waits for its first login.
func noLogin() *tokensource.Cache {
	return &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, tokensource.ErrReauthenticate
	})}
}

const whereToLogIn = `Bearer resource_metadata="https://api.example/.well-known/oauth-protected-resource"`

// asksToLogIn is an API that challenges whoever has no token; others get the number of bytes that came.
func asksToLogIn(t *testing.T) (string, *http.Transport) {
	return serveOver(t, "HTTP/1.1", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", whereToLogIn)
			w.WriteHeader(401)
			fmt.Fprint(w, "log in: ", n, err, r.Header["Dpop"])
			return
		}
		fmt.Fprint(w, n, err)
	})
}

// wantLogin fails the test unless the request ends in ErrReauthenticate and is not sent.
func wantLogin(t *testing.T, what string, auth *transport.Auth, req *http.Request) {
	t.Helper()
	_, err := auth.RoundTrip(req)
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || e.StatusCode != 0 || !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("%s: got %v, want ErrReauthenticate and nothing sent", what, err)
	}
}

func TestBeforeTheFirstLoginAnAnonymousRequestBringsTheChallenge(t *testing.T) {
	url, base := asksToLogIn(t)
	for kind, bases := range map[string]http.RoundTripper{"": base, "DPoP": &transport.DPoP{Key: p256, Base: base}} {
		cache := noLogin()
		auth := &transport.Auth{Source: cache, Base: bases, Anonymous: beforeLogin, MaxMemory: 1}
		data, _ := noise(100 * kib)
		resp, err := auth.RoundTrip(postBody(t, url, data))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "log in: 102400 <nil> []" || resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != whereToLogIn {
			t.Errorf("%s: got %d, %q, %q, want the server's own 401", kind, resp.StatusCode, text, resp.Header)
		}
		cache.Set(t.Context(), &tokensource.Token{AccessToken: "token", TokenType: kind})
		getsStatus(t, auth, postBody(t, url, nil), 200)
		cache.Forget(t.Context())
		wantLogin(t, "after the logout", auth, postBody(t, url, nil))
	}
}

func TestARequestIsAnonymousOnlyIfALoginIsNeededAndTheFieldSaysSo(t *testing.T) {
	failing := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		return nil, errors.New("the endpoint is down")
	})
	always := func(*http.Request, bool) bool { return true }
	for name, auth := range map[string]*transport.Auth{
		"off":           {Source: noLogin()},
		"it says no":    {Source: noLogin(), Anonymous: func(*http.Request, bool) bool { return false }},
		"another error": {Source: failing, Anonymous: always},
		"no Source":     {Anonymous: always},
		"in clear text": {Source: noLogin(), Anonymous: always},
	} {
		auth.Base = unsent(t)
		url := "https://api.example"
		if name == "in clear text" {
			url = "http://api.example"
		}
		if _, err := auth.RoundTrip(postBody(t, url, nil)); err == nil {
			t.Errorf("%s: got an answer, want an error", name)
		}
	}
}

func TestAfterALogoutARequestIsAnonymousOnlyIfTheFieldSaysSo(t *testing.T) {
	url, base := asksToLogIn(t)
	cache := noLogin()
	auth := &transport.Auth{Source: cache, Base: base, Anonymous: func(*http.Request, bool) bool { return true }}
	cache.Set(t.Context(), &tokensource.Token{AccessToken: "token"})
	getsStatus(t, auth, postBody(t, url, nil), 200)
	cache.Forget(t.Context())
	getsStatus(t, auth, postBody(t, url, nil), 401)
}

// userKey is where a request's context has its user.
type userKey struct{}

func TestEachUserOfAKeyedIsAnonymousByWhatItsContextSays(t *testing.T) {
	url, base := asksToLogIn(t)
	user := func(ctx context.Context) string { s, _ := ctx.Value(userKey{}).(string); return s }
	keyed := &tokensource.Keyed[string]{
		Key: func(ctx context.Context) (string, error) { return user(ctx), nil },
		New: func(string) *tokensource.Cache { return noLogin() },
	}
	known := map[string]bool{}
	auth := &transport.Auth{Source: keyed, Base: base, Anonymous: func(req *http.Request, _ bool) bool { return !known[user(req.Context())] }}
	as := func(name string) *http.Request {
		return postBody(t, url, nil).WithContext(context.WithValue(t.Context(), userKey{}, name))
	}
	getsStatus(t, auth, as("ann"), 401)
	known["ann"] = true
	keyed.Set(as("ann").Context(), &tokensource.Token{AccessToken: "token"})
	getsStatus(t, auth, as("ann"), 200)
	getsStatus(t, auth, as("bob"), 401)
	keyed.Forget(as("ann").Context())
	wantLogin(t, "ann, logged out", auth, as("ann"))
	getsStatus(t, auth, as("bob"), 401)
}

// endsAfter is a Source whose login ends with the refusal of its token.
var endsAfter = tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if old != nil {
		return nil, tokensource.ErrReauthenticate
	}
	return &tokensource.Token{AccessToken: "hush-hush+1"}, nil
})

func TestARefusalWhoseRefreshFailsKeepsItsChallenges(t *testing.T) {
	auth := &transport.Auth{Source: endsAfter, Anonymous: beforeLogin, Base: roundTrip(func(req *http.Request) (*http.Response, error) {
		resp := bodyAnswer(401, http.NoBody)
		resp.Header["Www-Authenticate"] = []string{
			whereToLogIn + `, error="invalid_token", error_description="hush-hush+1 is expired; hush-hush%2B1", hush-hush+1=x`,
			`Custom hush-hush+1==`,
		}
		return resp, nil
	})}
	_, err := auth.RoundTrip(postBody(t, "https://api.example", nil))
	e, ok := errors.AsType[*transport.Error](err)
	if !ok || !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Fatalf("got %v, want an Error that a login is needed", err)
	}
	if len(e.Challenges) != 2 || e.Challenges[0].Params["resource_metadata"] != "https://api.example/.well-known/oauth-protected-resource" ||
		e.Challenges[0].Params["error_description"] != "[redacted] is expired; [redacted]" {
		t.Errorf("got %+v, want the challenges without the token", e.Challenges)
	}
	for _, v := range []any{e, *e, err, e.Challenges} {
		secrets.Check(t, "Error", v)
	}
}

// No secret is shorter than four bytes, and a shorter one would be found in many a word.
func TestATokenOfFourBytesIsRedactedWhereverItStands(t *testing.T) {
	for token, want := range map[string]string{"abc": "abc", "abcd": "[redacted]"} {
		auth := &transport.Auth{Base: roundTrip(func(req *http.Request) (*http.Response, error) {
			resp := bodyAnswer(401, http.NoBody)
			resp.Header["Www-Authenticate"] = []string{token + ` realm="x` + token + `", ` + token + `=y`, "Custom " + token + "=="}
			return resp, nil
		})}
		auth.Source = tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			if old != nil {
				return nil, tokensource.ErrReauthenticate
			}
			return &tokensource.Token{AccessToken: token}, nil
		})
		_, err := auth.RoundTrip(postBody(t, "https://api.example", nil))
		e, _ := errors.AsType[*transport.Error](err)
		all := challenges{{want, "", params{"realm": "x" + want, want: "y"}}, {"Custom", want + "==", nil}}
		if e == nil || !reflect.DeepEqual(e.Challenges, []transport.Challenge(all)) {
			t.Errorf("%s: got %v with %+v, want %+v", token, err, e.Challenges, all)
		}
	}
}

func TestAProofThatCannotBeMadeAgainKeepsTheChallengesOfItsRefusal(t *testing.T) {
	for _, challenge := range []string{`DPoP error="use_dpop_nonce", realm="a"`, `DPoP error="invalid_token", realm="a"`} {
		source := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
			token, err := oldThenNew(t.Context(), old)
			token.TokenType = "DPoP"
			return token, err
		})
		s := &nonceServer{answer: func(n int, req *http.Request, resp *http.Response) {
			resp.StatusCode = 401
			resp.Header.Set("WWW-Authenticate", challenge)
		}}
		auth := &transport.Auth{Source: source, Base: &transport.DPoP{Key: &failingKey{p256, 1}, Base: s}}
		_, err := auth.RoundTrip(postBody(t, "https://api.example", nil))
		e, ok := errors.AsType[*transport.Error](err)
		if !ok || e.StatusCode != 401 || !reflect.DeepEqual(e.Challenges, []transport.Challenge(challenged(challenge))) {
			t.Errorf("%s: got %v with %+v, want the challenge", challenge, err, e.Challenges)
		}
	}
}
