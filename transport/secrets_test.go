package transport_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// Every secret has this in it, whatever it is for.
const hush = "hush-hush"

// exportedTypes are those of the package in this directory.
func exportedTypes(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				names = append(names, spec.Name.Name)
			}
			_, inFunc := n.(*ast.FuncDecl)
			return !inFunc
		})
	}
	return names
}

// shown is all that can be printed, logged or marshalled of v. Not %p and %w: fmt bypasses methods there.
func shown(v any) map[string]string {
	all := map[string]string{}
	for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %d %o %O %t %e %g %b %c %U %T %+q %#x %#q %20s %! extra") {
		all[verb] = fmt.Sprintf(verb, v)
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	all["slog"] = b.String()
	j, err := json.Marshal(v)
	all["json"] = fmt.Sprint(string(j), err)
	x, err := xml.Marshal(v)
	all["xml"] = fmt.Sprint(string(x), err)
	return all
}

// shows reports whether text has the secret, in clear or as %x, %d or a []byte write it.
func shows(text string) bool {
	return strings.Contains(text, hush) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", hush)) ||
		strings.Contains(text, strings.Trim(fmt.Sprintf("%d", []byte(hush[:4])), "[]"))
}

// hushSources end in a token, and in an error of a server that repeats the secrets.
func hushSources() []tokensource.Source {
	endpoint := tokensource.Endpoint{URL: "https://login.test", ClientSecret: hush, Client: &http.Client{Transport: hushBase(400)}}
	return []tokensource.Source{
		tokensource.Static(&tokensource.Token{AccessToken: hush, RefreshToken: hush}),
		&tokensource.ClientCredentials{Endpoint: endpoint},
		&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: hush},
		&tokensource.Cache{Source: tokensource.Static(&tokensource.Token{AccessToken: hush})},
		&tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: hush}},
	}
}

// A hushBase answers with a status and all that it was sent.
type hushBase int

func (status hushBase) RoundTrip(req *http.Request) (*http.Response, error) {
	body := new(bytes.Buffer)
	if req.Body != nil {
		body.ReadFrom(req.Body)
		req.Body.Close()
	}
	said, _ := json.Marshal(map[string]string{"error": "invalid_grant", "error_description": body.String() + fmt.Sprint(req.Header)})
	w := &http.Response{StatusCode: int(status), Header: http.Header{}, Body: http.NoBody, Request: req}
	if status == 400 {
		w.Body = readCloser{bytes.NewReader(said)}
	}
	return w, nil
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// A hushKey is a key that shows, if anything does.
type hushKey struct{ Secret string }

func (hushKey) Public() crypto.PublicKey { return nil }
func (hushKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}

// usedAuths have a token in their header, a guard that watches, a refusal behind them.
func usedAuths(t *testing.T) (all []*transport.Auth, failures []error) {
	rotating := tokensource.Func(func(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old == nil {
			return &tokensource.Token{AccessToken: hush}, nil
		}
		return &tokensource.Token{AccessToken: old.AccessToken + "x", RefreshToken: hush}, nil
	})
	for _, status := range []hushBase{200, 401} {
		for _, src := range append(hushSources(), rotating) {
			a := &transport.Auth{Source: src, Base: status}
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://api.test", nil)
			if _, err := a.RoundTrip(req); err != nil {
				failures = append(failures, err)
			}
			all = append(all, a)
		}
	}
	return all, failures
}

func secretsTable(t *testing.T) map[string][]any {
	table := map[string][]any{"Challenge": {transport.Challenge{Scheme: "Bearer"}}}
	dpop := &transport.DPoP{Key: hushKey{hush}, Base: hushBase(401)}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://api.test", nil)
	dpop.RoundTrip(req)
	table["DPoP"] = []any{dpop, []any{dpop}, map[string]any{"k": dpop}, struct{ D *transport.DPoP }{dpop}, &struct{ R http.RoundTripper }{dpop}, http.Client{Transport: dpop}}
	auths, failures := usedAuths(t)
	for _, a := range auths {
		table["Auth"] = append(table["Auth"], a, []*transport.Auth{a}, map[string]any{"k": a}, struct{ A *transport.Auth }{a}, &struct{ R http.RoundTripper }{a}, http.Client{Transport: a})
	}
	for _, err := range failures {
		e, ok := errors.AsType[*transport.Error](err)
		if !ok {
			t.Fatalf("got %v, want an Error", err)
		}
		table["Error"] = append(table["Error"], e, *e, []error{e}, []transport.Error{*e}, struct{ E error }{e}, struct{ E transport.Error }{*e}, fmt.Errorf("because: %w", e))
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			table["Error"] = append(table["Error"], cause)
		}
	}
	return table
}

func wantNoSecret(t *testing.T, name string, v any) {
	t.Helper()
	for how, text := range shown(v) {
		if shows(text) {
			t.Errorf("%s, %T by %s: the secret shows: %.300q", name, v, how, text)
			return
		}
	}
}

func TestNoExportedTypeShowsASecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := secretsTable(t)
		synctest.Wait() // no refresh is in flight while fmt reads a Cache
		for _, name := range exportedTypes(t) {
			if len(table[name]) == 0 {
				t.Errorf("%s has no row in the table: can it hold a secret?", name)
			}
			for _, v := range table[name] {
				wantNoSecret(t, name, v)
			}
		}
	})
}

func TestWhatIsPrintedTellsWhatItIs(t *testing.T) {
	dpop := &transport.DPoP{Base: hushBase(200)}
	auth := &transport.Auth{Source: new(tokensource.Cache), Base: dpop}
	if got, want := fmt.Sprint(auth), "*tokensource.Cache over *transport.DPoP"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	text, err := dpop.MarshalText()
	if want := "DPoP over transport_test.hushBase"; fmt.Sprint(dpop) != want || string(text) != want || err != nil {
		t.Errorf("got %v, as text %s and %v, want %s", dpop, text, err, want)
	}
}

func TestNoEncodingWritesTheKey(t *testing.T) {
	key := ed25519.NewKeyFromSeed([]byte((hush + hush + hush + hush)[:ed25519.SeedSize]))
	gob.Register(key)
	dpop := &transport.DPoP{Key: key}
	for _, v := range []any{dpop, struct{ D *transport.DPoP }{dpop}, &struct{ D transport.DPoP }{transport.DPoP{Key: key}}, struct{ D transport.DPoP }{transport.DPoP{Key: key}}} {
		var b bytes.Buffer
		if err := gob.NewEncoder(&b).Encode(v); err == nil || shows(b.String()) {
			t.Errorf("%T by gob: got %v and %.200q, want an error and no key", v, err, b.String())
		}
		j, _ := json.Marshal(v)
		x, _ := xml.Marshal(v)
		for _, text := range []string{string(j), string(x)} {
			if shows(text) || bytes.Contains([]byte(text), []byte("aHVzaC1odXNo")) {
				t.Errorf("%T: the key shows: %.200s", v, text)
			}
		}
	}
}
