package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
)

// roundTripper is a RoundTripper made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer is a RoundTripper that always gives the same answer.
func answer(status int, header http.Header, body string) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

// endpoint is a token endpoint that always gives the same answer.
func endpoint(base http.RoundTripper) tokensource.Endpoint {
	return tokensource.Endpoint{URL: "https://id.example.com/token", ClientID: "app", Client: &http.Client{Transport: base}}
}

// refusing is a token endpoint that answers with an error of RFC 6749.
func refusing(status int, code string) tokensource.Endpoint {
	return endpoint(answer(status, nil, fmt.Sprintf(`{"error":%q}`, code)))
}

func credentials(e tokensource.Endpoint) tokensource.Source {
	return &tokensource.ClientCredentials{Endpoint: e}
}

func static(kind string) tokensource.Source {
	return tokensource.Static(&tokensource.Token{AccessToken: "at", TokenType: kind})
}

func failing(err error) tokensource.Source {
	return tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { return nil, err })
}

// A brokenStore fails wherever an error is set.
type brokenStore struct {
	storetest.Memory
	load, update, save error
}

func (b *brokenStore) Load(ctx context.Context, key string) ([]byte, error) {
	if b.load != nil {
		return nil, b.load
	}
	return b.Memory.Load(ctx, key)
}

func (b *brokenStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	if b.update != nil {
		return b.update
	}
	return b.Memory.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(data []byte) error {
			if b.save != nil {
				return b.save
			}
			return save(data)
		})
	})
}

func stored(store tokensource.Store) *tokensource.Stored {
	return &tokensource.Stored{Source: failing(errors.New("no")), Store: store, Key: "reports"}
}

// provoked are the errors that the tables of operating.md explain.
func provoked(t *testing.T) (all []error) {
	for _, errs := range [][]error{ofSettings(t), ofLogins(t), ofReplies(t), ofTime(t), ofStores(t), ofKeyed(t)} {
		all = append(all, errs...)
	}
	return all
}

// send sends a request through auth, and returns the error.
func send(t *testing.T, auth *transport.Auth, url string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = auth.RoundTrip(req)
	if err == nil {
		t.Errorf("%v to %s: got no error", auth, url)
	}
	return err
}

const api = "https://api.example.com/"

// obtain returns the error of a request with a Cache over the source.
func obtain(t *testing.T, s tokensource.Source) error {
	t.Helper()
	return send(t, &transport.Auth{Source: &tokensource.Cache{Source: s}, Base: answer(200, nil, "")}, api)
}

func ofSettings(t *testing.T) (all []error) {
	for _, auth := range []*transport.Auth{
		{},
		{Source: static(""), Origins: []string{"api.example.com"}},
		{Source: static("DPoP")},
		{Source: static("N_A")},
		{Source: static("Be arer")},
		{Source: static(""), Base: new(transport.DPoP)},
		{Source: static("DPoP"), Base: new(transport.DPoP)},
		{Source: tokensource.Static(nil)},
		{Source: tokensource.Static(&tokensource.Token{AccessToken: "a\n"})},
		{Source: static(""), Base: roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil })},
	} {
		all = append(all, send(t, auth, api))
	}
	all = append(all, send(t, &transport.Auth{Source: static("")}, "http://api.example.com/"))
	both := endpoint(nil)
	both.ClientSecret, both.ClientAssertion = "secret", static("")
	for _, s := range []tokensource.Source{
		nil,
		credentials(tokensource.Endpoint{}),
		credentials(tokensource.Endpoint{URL: "http://id.example.com"}),
		credentials(both),
		credentials(tokensource.Endpoint{URL: "https://id.example.com/token", Issuer: new(tokensource.Issuer)}),
		credentials(tokensource.Endpoint{Issuer: new(tokensource.Issuer)}),
		&tokensource.File{Path: "/does/not/exist"},
		&tokensource.SignedJWT{},
		&tokensource.JWTBearer{},
		&tokensource.JWTBearer{Assertion: &tokensource.SignedJWT{}},
		&tokensource.Stored{},
		&tokensource.Stored{Source: static(""), Store: new(storetest.Memory)},
		&tokensource.Stored{Source: static(""), Store: new(tokensource.Encrypted), Key: "k"},
		tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) { panic("a bug") }),
		failing((*tokensource.EndpointError)(nil)),
		&tokensource.Stored{Source: tokensource.Static(&tokensource.Token{AccessToken: "at", RefreshToken: "\xff"}), Store: new(storetest.Memory), Key: "k"},
		tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			runtime.Goexit()
			return nil, nil
		}),
	} {
		all = append(all, obtain(t, s))
	}
	return all
}

func ofLogins(t *testing.T) []error {
	loggedOut := new(tokensource.Cache)
	loggedOut.Forget(t.Context())
	_, err := loggedOut.Token(t.Context(), nil)
	tombstone := stored(new(storetest.Memory))
	tombstone.Forget(t.Context())
	return []error{
		err,
		obtain(t, tombstone),
		obtain(t, new(tokensource.RefreshToken)),
		obtain(t, &tokensource.RefreshToken{Endpoint: refusing(400, "invalid_grant"), RefreshToken: "rt"}),
	}
}

func ofReplies(t *testing.T) (all []error) {
	for code, status := range map[string]int{
		"invalid_client": 401, "unauthorized_client": 400, "invalid_scope": 400, "unsupported_grant_type": 400,
		"invalid_request": 400, "invalid_grant": 400, "temporarily_unavailable": 503, "use_dpop_nonce": 400,
	} {
		all = append(all, obtain(t, credentials(refusing(status, code))))
	}
	for _, status := range []int{302, 404, 429, 500, 503} {
		all = append(all, obtain(t, credentials(endpoint(answer(status, nil, "")))))
	}
	for _, body := range []string{"", "<html>", "oops", "{", `{"access_token":1}`, "{}", strings.Repeat("x", 2<<20)} {
		all = append(all, obtain(t, credentials(endpoint(answer(200, nil, body)))))
	}
	date := http.Header{"Date": {time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat)}}
	late := endpoint(answer(400, date, `{"error":"invalid_grant"}`))
	unreachable := roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
	return append(all,
		obtain(t, &tokensource.JWTBearer{Endpoint: late, Assertion: static("")}),
		obtain(t, credentials(endpoint(unreachable))),
		send(t, refusedThenFailing(), api),
	)
}

// refusedThenFailing has a token that is refused, and gets no other.
func refusedThenFailing() *transport.Auth {
	cache := &tokensource.Cache{Source: credentials(refusing(503, "temporarily_unavailable"))}
	cache.Set(context.Background(), &tokensource.Token{AccessToken: "revoked"})
	return &transport.Auth{Source: cache, Base: answer(401, nil, "")}
}

func ofTime(t *testing.T) []error {
	wait := make(chan struct{})
	hangs := func() *tokensource.Cache {
		return &tokensource.Cache{Source: tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
			<-wait
			return nil, errors.New("too late")
		})}
	}
	defer close(wait)
	impatient, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	left, leave := context.WithCancel(t.Context())
	leave()
	_, deadline := hangs().Token(impatient, nil)
	_, canceled := hangs().Token(left, nil)
	_, timeout := hangs().Token(t.Context(), nil)
	return []error{deadline, canceled, timeout}
}

func ofStores(t *testing.T) (all []error) {
	away := errors.New("the store is away")
	for _, store := range []*brokenStore{{load: away}, {update: away}, {save: away}} {
		s := stored(store)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if store.save != nil { // of a login; a token that cannot be saved is used
			all = append(all, s.Set(ctx, &tokensource.Token{AccessToken: "at"}))
			continue
		}
		all = append(all, obtain(t, s))
	}
	for _, value := range []string{"oops", `{"v":2}`, `{"v":1}`, `{"v":1,"gen":1,"token":{}}`} {
		store := new(storetest.Memory)
		store.Update(t.Context(), "reports", func(_ []byte, save func([]byte) error) error { return save([]byte(value)) })
		all = append(all, obtain(t, stored(store)), obtain(t, stored(encrypted(store, 1))))
	}
	sealed := new(storetest.Memory)
	encrypted(sealed, 1).Update(t.Context(), "reports", func(_ []byte, save func([]byte) error) error { return save(nil) })
	return append(all, obtain(t, stored(encrypted(sealed, 2))))
}

func encrypted(store tokensource.Store, key byte) tokensource.Store {
	return &tokensource.Encrypted{Store: store, Keys: [][]byte{bytes.Repeat([]byte{key}, 32)}}
}

func ofKeyed(t *testing.T) []error {
	tenant := func(context.Context) (string, error) { return "", errors.New("no tenant in the context") }
	users := &tokensource.Keyed[int]{MaxKeys: 1, New: func(int) *tokensource.Cache { return new(tokensource.Cache) }}
	user := 0
	users.Key = func(context.Context) (int, error) { user++; return user, nil }
	users.Set(t.Context(), &tokensource.Token{RefreshToken: "would be lost"})
	two := &tokensource.Keyed[int]{Key: users.Key, New: users.New}
	var nested *tokensource.Keyed[int]
	nested = &tokensource.Keyed[int]{Key: func(context.Context) (int, error) { return 1, nil }, New: func(int) *tokensource.Cache {
		_, err := nested.Token(t.Context(), nil)
		return &tokensource.Cache{Source: failing(err)}
	}}
	return []error{
		send(t, &transport.Auth{Source: users}, api),
		send(t, &transport.Auth{Source: new(tokensource.Keyed[int])}, api),
		send(t, &transport.Auth{Source: &tokensource.Keyed[string]{Key: tenant, New: func(string) *tokensource.Cache { return nil }}}, api),
		send(t, &transport.Auth{Source: two}, api),
		send(t, &transport.Auth{Source: nested}, api),
	}
}

// Each row of the tables begins with what the error says; an ellipsis stands for
// what varies.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

func TestTheTablesOfErrorsHaveTheirWords(t *testing.T) {
	_, section, _ := strings.Cut(pages.File(t, "operating.md"), "\n## What the errors say\n")
	section, _, _ = strings.Cut(section, "\n### ")
	found := map[string]bool{}
	var patterns []*regexp.Regexp
	for _, m := range row.FindAllStringSubmatch(section, -1) {
		patterns = append(patterns, regexp.MustCompile("^"+strings.ReplaceAll(regexp.QuoteMeta(m[1]), "…", ".*")+"$"))
	}
	synctest.Test(t, func(t *testing.T) {
		for _, err := range provoked(t) {
			told := false
			if e, ok := err.(*transport.Error); ok && e.StatusCode == 0 {
				err = e.Err
			}
			for _, p := range patterns {
				if p.MatchString(err.Error()) {
					told, found[p.String()] = true, true
				}
			}
			if !told {
				t.Errorf("no row tells of: %v", err)
			}
		}
	})
	for _, p := range patterns {
		if !found[p.String()] {
			t.Errorf("no error says: %v", p)
		}
	}
}

// An errorText is in the code of modules that are not imported here.
var (
	errorText = regexp.MustCompile(`(?:errors\.New|fmt\.Errorf|fmt\.Sprintf)\("([^"]+)"`)
	verb      = regexp.MustCompile(`%[\\.0-9]*[a-z]`)
)

func TestTheTablesOfGRPCAndMCPHaveTheirWords(t *testing.T) {
	_, section, _ := strings.Cut(pages.File(t, "operating.md"), "\n### Errors of gRPC and MCP clients\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows, found := row.FindAllStringSubmatch(section, -1), map[string]bool{}
	for _, said := range errorTexts(t, "../transport/*auth/*.go") {
		told := false
		for _, r := range rows {
			if said.MatchString(r[1]) {
				told, found[r[1]] = true, true
			}
		}
		if !told {
			t.Errorf("no row tells of: %v", said)
		}
	}
	for _, r := range rows {
		if !found[r[1]] {
			t.Errorf("no error says: %s", r[1])
		}
	}
}

// errorTexts returns patterns of the texts of errors in files, except texts that only
// join others.
func errorTexts(t *testing.T, glob string) (all []*regexp.Regexp) {
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files at %s: %v", glob, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range errorText.FindAllStringSubmatch(pages.File(t, file), -1) {
			if p := verb.ReplaceAllString(regexp.QuoteMeta(m[1]), ".*"); p != ".*: .*" {
				all = append(all, regexp.MustCompile(p))
			}
		}
	}
	return all
}

func TestEachErrorHasAKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for want, errs := range map[string][]error{
			"login":    ofLogins(t),
			"store":    ofStores(t),
			"refused":  {obtain(t, credentials(refusing(400, "invalid_client")))},
			"endpoint": {obtain(t, credentials(refusing(503, ""))), obtain(t, credentials(refusing(429, "")))},
			"left":     {ofTime(t)[1]},
			"late":     {ofTime(t)[0], ofTime(t)[2]},
			"keys":     {ofKeyed(t)[0]},
			"other":    {ofKeyed(t)[1], obtain(t, nil)},
		} {
			for _, err := range errs {
				if got := kind(err); got != want {
					t.Errorf("%v: got the kind %s, want %s", err, got, want)
				}
			}
		}
	})
}
