package servers_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
)

func startBetterAuth(t *testing.T) *site {
	node, dir, port := program(t, "node"), install(t, "better-auth"), programs.FreePort()
	cmd := exec.Command(node, "server.js", port)
	cmd.Dir = dir
	run(t, port, cmd)
	base := "http://127.0.0.1:" + port + "/api/auth"
	var client struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	resp := request(t, "GET", "http://127.0.0.1:"+port+"/test/client", nil, nil)
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&client); err != nil {
		t.Fatal(err)
	}
	endpoint := tokensource.Endpoint{Issuer: &tokensource.Issuer{URL: base}, ClientID: client.ID, ClientSecret: client.Secret}
	return &site{
		version: npmVersion(t, dir, "better-auth"),
		source:  tokensource.RefreshToken{Endpoint: endpoint},
		login: func(t *testing.T) *tokensource.Token {
			return browse(t, endpoint, base+"/oauth2/authorize", func(browser *http.Client, at *url.URL) string {
				resp, err := browser.Post(base+"/sign-in/email", "application/json",
					strings.NewReader(`{"email": "peter@example.com", "password": "a password"}`))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return base + "/oauth2/authorize?" + at.RawQuery
			})
		},
		api:    base + "/oauth2/userinfo",
		revoke: revokes(t, base+"/oauth2/revoke", endpoint),
	}
}
