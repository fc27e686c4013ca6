package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// An outcome is all that a run leaves behind.
type outcome struct {
	status                  int
	stdout, stderr, picture string
}

type env map[string]string

func (e env) get(name string) string { return e[name] }

func runDemo(ctx context.Context, t *testing.T, env env, args ...string) outcome {
	t.Helper()
	path := filepath.Join(t.TempDir(), "timeline.html")
	var stdout, stderr bytes.Buffer
	status := run(ctx, slices.Concat(args, []string{"-o", path}), env.get, &stdout, &stderr)
	picture, _ := os.ReadFile(path) // a run that failed writes none
	return outcome{status, stdout.String(), stderr.String(), string(picture)}
}

// number returns the number of a row of the table; -1 if there is no such row.
func (o outcome) number(row string) int {
	m := regexp.MustCompile(`(?m)^` + row + ` +(\d+) `).FindStringSubmatch(o.stdout)
	if m == nil {
		return -1
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func wantNumber(t *testing.T, o outcome, row string, want int) {
	t.Helper()
	if got := o.number(row); got != want {
		t.Errorf("%s: got %d; want %d, in\n%s", row, got, want, o.stdout)
	}
}

func wantStatus(t *testing.T, o outcome, want int) {
	t.Helper()
	if o.status != want {
		t.Errorf("got exit status %d; want %d; stdout:\n%s\nstderr:\n%s", o.status, want, o.stdout, o.stderr)
	}
}

// wantPicture wants one that is well-formed and has all these in it.
func wantPicture(t *testing.T, o outcome, parts ...string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(o.picture))
	var err error
	for err == nil {
		_, err = d.Token()
	}
	if err != io.EOF {
		t.Errorf("the picture is not well-formed: %v", err)
	}
	for _, part := range append(parts, "<svg ", "</html>") {
		if !strings.Contains(o.picture, part) {
			t.Errorf("the picture has no %q", part)
		}
	}
}

func TestTheDemoLosesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	got := runDemo(t.Context(), t, nil, "-duration", "4s", "-c", "40")
	wantStatus(t, got, 0)
	wantNumber(t, got, "lost", 0)
	wantNumber(t, got, "bodies verified", got.number("requests"))
	wantNumber(t, got, "replayed", got.number("refused"))
	if got.number("requests") < 40 || got.number("refused") < 1 {
		t.Errorf("too little happened:\n%s", got.stdout)
	}
	told := 0
	for _, row := range regexp.MustCompile(`(?m)^  \w+ +(\d+) +(\d+) `).FindAllStringSubmatch(got.stdout, -1) {
		good, _ := strconv.Atoi(row[1])
		failed, _ := strconv.Atoi(row[2])
		told += good + failed
	}
	wantNumber(t, got, "token requests", told)
	wantPicture(t, got, "none lost", "token revoked", "token endpoint down",
		`<rect class="expired"`, `<rect class="early"`, `<rect class="refused"`, `<rect class="failed"`)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		if runtime.NumGoroutine() <= before {
			return
		}
	}
	t.Errorf("got %d goroutines after the demo; want %d, as before", runtime.NumGoroutine(), before)
}

// onServer has the arguments that drive a test server's API.
func onServer(srv *tokentest.Server, api string, more ...string) []string {
	return append([]string{"-api", api, "-token-url", srv.TokenURL(), "-client-id", srv.ClientID}, more...)
}

func TestItDrivesOtherServersWithEitherGrant(t *testing.T) {
	srv := tokentest.NewServer(t)
	for name, env := range map[string]env{
		"client credentials":              {"CLIENT_SECRET": srv.ClientSecret},
		"refresh token":                   {"CLIENT_SECRET": srv.ClientSecret, "REFRESH_TOKEN": srv.RefreshToken()},
		"refresh token of public clients": {"REFRESH_TOKEN": srv.RefreshToken()},
	} {
		t.Run(name, func(t *testing.T) {
			before := srv.Counts()
			got := runDemo(t.Context(), t, env, onServer(srv, srv.APIURL(), "-n", "60", "-c", "5")...)
			wantStatus(t, got, 0)
			wantNumber(t, got, "requests", 60)
			wantNumber(t, got, "bodies verified", 60)
			wantNumber(t, got, "token requests", 1)
			wantPicture(t, got, "5 clients of 127.0.0.1:", "none lost")
			after := srv.Counts()
			if n, tokens := after.APIRequests-before.APIRequests, after.TokenRequests-before.TokenRequests; n != 60 || tokens != 1 {
				t.Errorf("the server saw %d requests and %d token requests; want 60 and 1", n, tokens)
			}
			if rotated := strings.Contains(got.stderr, "REFRESH_TOKEN was exchanged"); rotated != (env["REFRESH_TOKEN"] != "") {
				t.Errorf("got on stderr: %s", got.stderr)
			}
		})
	}
}

func TestARevocationShowsInTheTable(t *testing.T) {
	srv := tokentest.NewServer(t)
	served := 0
	api := httptest.NewServer(srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if served++; served == 5 {
			srv.RevokeAccess()
		}
	})))
	defer api.Close()
	got := runDemo(t.Context(), t, env{"CLIENT_SECRET": srv.ClientSecret}, onServer(srv, api.URL, "-n", "10", "-c", "1")...)
	wantStatus(t, got, 0)
	wantNumber(t, got, "refused", 1)
	wantNumber(t, got, "replayed", 1)
	wantNumber(t, got, "token requests", 2)
	wantNumber(t, got, "bodies verified", -1) // this API tells no digest
	wantPicture(t, got, `<rect class="refused"`, "1 refused and sent again, none lost")
}

func TestAnAPIThatTakesNoTokenLosesEverything(t *testing.T) {
	srv := tokentest.NewServer(t)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
	defer api.Close()
	got := runDemo(t.Context(), t, env{"CLIENT_SECRET": srv.ClientSecret}, onServer(srv, api.URL, "-n", "8", "-c", "2")...)
	wantStatus(t, got, 1)
	wantNumber(t, got, "lost", 8)
	wantPicture(t, got, "8 lost")
	if !strings.Contains(got.stdout, "8 times: the API answered 401") {
		t.Errorf("the table does not tell why:\n%s", got.stdout)
	}
}

func TestAWrongDigestFails(t *testing.T) {
	srv := tokentest.NewServer(t)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"sha256":"00"}`)
	}))
	defer api.Close()
	got := runDemo(t.Context(), t, env{"CLIENT_SECRET": srv.ClientSecret}, onServer(srv, api.URL, "-n", "3")...)
	wantStatus(t, got, 1)
	wantNumber(t, got, "bodies verified", 0)
}

func TestAnInterruptEndsTheRunAndKeepsTheTable(t *testing.T) {
	srv := tokentest.NewServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got := runDemo(ctx, t, env{"CLIENT_SECRET": srv.ClientSecret}, onServer(srv, srv.APIURL(), "-c", "3", "-pause", "1h")...)
	wantStatus(t, got, 0)
	wantNumber(t, got, "requests", 3)
	wantPicture(t, got, "3 requests")
}

func TestErrorsNameTheFlag(t *testing.T) {
	full := []string{"-api", "https://a.test", "-token-url", "https://b.test", "-client-id", "me"}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"-api needs -token-url", full[:2]},
		{"-api needs -client-id", full[:4]},
		{"-api needs CLIENT_SECRET, REFRESH_TOKEN or both in the environment", full},
		{"-token-url needs -api", full[2:4]},
		{"-client-id needs -api", full[4:]},
		{"-n needs -api", []string{"-n", "5"}},
		{"-n must be at least 1", append([]string{"-n", "0"}, full...)},
		{"-c must be at least 1", []string{"-c", "0"}},
		{"-duration must be more than 0", []string{"-duration", "0s"}},
		{"-duration is for the demo", append([]string{"-duration", "1s"}, full...)},
		{"for flag -param: it must be NAME=VALUE", append([]string{"-param", "scope"}, full...)},
		{`"extra" is not a flag`, []string{"extra"}},
	} {
		got := runDemo(t.Context(), t, nil, c.args...)
		if got.status != 2 || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%q: got status %d, %q; want 2, %q", c.args, got.status, got.stderr, c.want)
		}
	}
}

func TestURLsMustBeEncryptedUnlessAllowed(t *testing.T) {
	for _, c := range []struct {
		want, api, tokenURL string
	}{
		{"-api is not encrypted; -allow-http", "http://a.test", "https://b.test"},
		{"-token-url is not encrypted; -allow-http", "https://a.test", "http://b.test"},
		{"-api is not a URL such as", "a.test", "https://b.test"},
		{"-token-url is not a URL such as", "https://a.test", "ftp://b.test"},
	} {
		got := runDemo(t.Context(), t, env{"CLIENT_SECRET": "x"}, "-api", c.api, "-token-url", c.tokenURL, "-client-id", "me")
		if got.status != 2 || !strings.Contains(got.stderr, c.want) {
			t.Errorf("got status %d, %q; want 2, %q", got.status, got.stderr, c.want)
		}
	}
	env := func(string) string { return "x" }
	_, err := parse([]string{"-api", "http://a.test", "-token-url", "http://b.test", "-client-id", "me", "-allow-http"}, env, io.Discard)
	if err != nil {
		t.Errorf("with -allow-http: got %v; want no error", err)
	}
}

func TestARefusedCredentialIsOneErrorThatShowsNoSecret(t *testing.T) {
	srv := tokentest.NewServer(t)
	for want, env := range map[string]env{
		"-token-url (check -client-id and CLIENT_SECRET": {"CLIENT_SECRET": "hunter2"},
		"-token-url (is REFRESH_TOKEN spent or expired?": {"REFRESH_TOKEN": "hunter2"},
	} {
		got := runDemo(t.Context(), t, env, onServer(srv, srv.APIURL())...)
		wantStatus(t, got, 1)
		if !strings.Contains(got.stderr, want) {
			t.Errorf("got %q; want %q in it", got.stderr, want)
		}
		if strings.Contains(got.stderr+got.stdout+got.picture, "hunter2") {
			t.Errorf("a secret was printed: %q", got.stderr)
		}
	}
}

func TestAPictureThatCannotBeWrittenFails(t *testing.T) {
	var stderr bytes.Buffer
	status := run(t.Context(), []string{"-duration", "100ms", "-c", "2", "-o", t.TempDir()}, os.Getenv, io.Discard, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "demo: -o: ") {
		t.Errorf("got status %d, %q; want 1 and an error that names -o", status, stderr.String())
	}
}

func TestOnlyTheReasonOfAClientsErrorIsTold(t *testing.T) {
	_, err := http.Get("http://127.0.0.1:0/?secret=hunter2")
	if got := withoutURL(err); got == nil || strings.Contains(got.Error(), "hunter2") {
		t.Errorf("got %v; want an error without the URL", got)
	}
	if plain := errors.New("plain"); withoutURL(plain) != plain {
		t.Error("an error without a URL was changed")
	}
}

func TestAnUploadHasTheDigestOfWhatWasRead(t *testing.T) {
	u := newUpload()
	data, err := io.ReadAll(u)
	if err != nil || len(data) == 0 {
		t.Fatalf("got %d bytes, error %v", len(data), err)
	}
	if again, _ := io.ReadAll(u); len(again) != 0 {
		t.Error("an upload can be read twice; want once")
	}
	if got := u.sum(); got == emptySum() || len(got) != 64 {
		t.Errorf("got digest %s", got)
	}
}

func TestTicksAreRoundAndFew(t *testing.T) {
	for length, want := range map[time.Duration]string{
		9 * time.Second:        "1 s",
		90 * time.Millisecond:  "0.01 s",
		30 * time.Second:       "5 s",
		600 * time.Second:      "50 s",
		time.Duration(0):       "",
		150 * time.Millisecond: "0.02 s",
	} {
		ticks := axis{length}.ticks()
		got := ""
		if len(ticks) > 1 {
			got = ticks[1].Label
		}
		if got != want || len(ticks) > 13 {
			t.Errorf("%v: got %d ticks, the second %q; want %q", length, len(ticks), got, want)
		}
	}
}

func TestAPictureNamedSVGIsTheDrawingAlone(t *testing.T) {
	srv := tokentest.NewServer(t)
	path := filepath.Join(t.TempDir(), "demo.svg")
	args := append(onServer(srv, srv.APIURL(), "-n", "3", "-c", "1"), "-o", path)
	if status := run(t.Context(), args, env{"CLIENT_SECRET": srv.ClientSecret}.get, io.Discard, io.Discard); status != 0 {
		t.Fatalf("got exit status %d; want 0", status)
	}
	drawing, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var root struct{ XMLName xml.Name }
	if err := xml.Unmarshal(drawing, &root); err != nil || root.XMLName.Local != "svg" || root.XMLName.Space == "" {
		t.Errorf("got the element %v, error %v; want an svg with its namespace", root.XMLName, err)
	}
}
