package servers_test

import (
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

func startZitadel(t *testing.T) *site {
	path, port := build(t, "zitadel", "."), programs.FreePort()
	run(t, port, exec.Command(path, port))
	base := "http://127.0.0.1:" + port
	endpoint := tokensource.Endpoint{Issuer: &tokensource.Issuer{URL: base}, ClientID: "app", ClientSecret: "a secret of the suite"}
	return &site{
		version: goVersion(t, path, "github.com/zitadel/oidc/v3"),
		source:  tokensource.RefreshToken{Endpoint: endpoint},
		login: func(t *testing.T) *tokensource.Token {
			return browse(t, endpoint, base+"/auth", func(browser *http.Client, at *url.URL) string {
				if !strings.HasPrefix(at.Path, "/login") {
					return ""
				}
				resp, err := browser.PostForm(at.String(), url.Values{
					"id": {at.Query().Get("authRequestID")}, "username": {"test-user@localhost"}, "password": {"verysecure"},
				})
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return resp.Header.Get("Location")
			})
		},
		api:     base + "/userinfo",
		refused: transport.UnauthorizedOrForbidden,
		revoke:  revokes(t, base+"/revoke", endpoint),
	}
}
