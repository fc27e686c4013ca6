package servers_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
)

// The plugin oauth2-glewlwyd, with access tokens of 2 s.
const glewlwydPlugin = `{"module": "oauth2-glewlwyd", "name": "glwd", "display_name": "x", "order_rank": 0, "parameters": {
	"jwt-type": "sha", "jwt-key-size": "256", "key": "a key of the suite, a key of the suite",
	"access-token-duration": 2, "refresh-token-duration": 3600, "refresh-token-rolling": false, "code-duration": 60,
	"auth-type-code-enabled": false, "auth-type-implicit-enabled": false, "auth-type-client-enabled": false,
	"auth-type-password-enabled": true, "auth-type-refresh-enabled": true,
	"introspection-revocation-allowed": true, "introspection-revocation-auth-scope": ["api"], "introspection-revocation-allow-target-client": true}}`

const glewlwydDatabase = `import gzip, sqlite3, sys
sqlite3.connect(sys.argv[1]).executescript(gzip.open("/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz", "rt").read())`

func startGlewlwyd(t *testing.T) *site {
	path, dir, port := program(t, "glewlwyd"), t.TempDir(), programs.FreePort()
	if out, err := exec.Command(program(t, "python3"), "-c", glewlwydDatabase, filepath.Join(dir, "db")).CombinedOutput(); err != nil {
		t.Fatalf("the database: %v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "glewlwyd", "glewlwyd.conf"))
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "glewlwyd.conf")
	if err := os.WriteFile(config, []byte(strings.NewReplacer("PORT", port, "DIR", dir).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, port, exec.Command(path, "--config-file="+config))
	base := "http://127.0.0.1:" + port + "/api"
	configureGlewlwyd(t, base)

	endpoint := tokensource.Endpoint{URL: base + "/glwd/token/", ClientID: "app", ClientSecret: "secret-of-the-suite"}
	login := func(t *testing.T) *tokensource.Token {
		token, err := endpoint.Exchange(t.Context(), url.Values{
			"grant_type": {"password"}, "username": {"peter"}, "password": {"a password"}, "scope": {"api"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	bearer := func(access string) func(*http.Request) {
		return func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+access) }
	}
	revoke := func(token string) {
		resp := request(t, "POST", base+"/glwd/revoke/", url.Values{"token": {token}}, bearer(login(t).AccessToken))
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("revoke: %s", resp.Status)
		}
	}
	out, _ := exec.Command(path, "--version").CombinedOutput()
	return &site{
		version: regexp.MustCompile(`\d+(\.\d+)+`).FindString(string(out)),
		source: tokensource.RefreshToken{
			Endpoint: endpoint,
			Final: func(refusal *tokensource.EndpointError) bool {
				return refusal.StatusCode == http.StatusBadRequest && refusal.Code == "" && refusal.Err == nil
			},
		},
		login:  login,
		api:    base + "/glwd/profile/",
		revoke: revoke,
	}
}

// configureGlewlwyd adds a scope, a user, a client and the plugin.
func configureGlewlwyd(t *testing.T, base string) {
	jar, _ := cookiejar.New(nil)
	admin := &http.Client{Jar: jar}
	for _, step := range [][2]string{
		{"/auth", `{"username": "admin", "password": "password"}`},
		{"/scope", `{"name": "api", "display_name": "x", "description": "x", "password_required": true, "password_max_age": 0, "scheme": {}}`},
		{"/user", `{"username": "peter", "name": "x", "password": "a password", "enabled": true, "scope": ["api"]}`},
		{"/client", `{"client_id": "app", "name": "x", "password": "secret-of-the-suite", "confidential": true, "enabled": true,
			"redirect_uri": ["http://127.0.0.1/"], "authorization_type": ["password", "refresh_token"], "scope": ["api"]}`},
		{"/mod/plugin", glewlwydPlugin},
	} {
		if !json.Valid([]byte(step[1])) {
			t.Fatal("not JSON: ", step[1])
		}
		resp, err := admin.Post(base+step[0]+"/", "application/json", strings.NewReader(step[1]))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s: %s", step[0], resp.Status, text)
		}
	}
}
