package servers_test

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
)

func startHydra(t *testing.T) *site {
	path, public, private := build(t, "hydra", "github.com/ory/hydra/v2", "-tags", "sqlite"), programs.FreePort(), programs.FreePort()
	base, admin := "http://127.0.0.1:"+public, "http://127.0.0.1:"+private+"/admin"
	cmd := exec.Command(path, "serve", "all", "--dev", "--sqa-opt-out")
	cmd.Env = append(os.Environ(), "DSN=memory", "TTL_ACCESS_TOKEN=3s", "SECRETS_SYSTEM=a secret of the suite", "LOG_LEVEL=error",
		"URLS_SELF_ISSUER="+base, "URLS_LOGIN="+base+"/login", "URLS_CONSENT="+base+"/consent",
		"SERVE_PUBLIC_HOST=127.0.0.1", "SERVE_PUBLIC_PORT="+public, "SERVE_ADMIN_HOST=127.0.0.1", "SERVE_ADMIN_PORT="+private)
	run(t, private, cmd)
	programs.Await(t, "127.0.0.1:"+public, nil)
	endpoint := tokensource.Endpoint{Issuer: &tokensource.Issuer{URL: base}, ClientID: "app", ClientSecret: "a secret of the suite"}
	ask(t, "POST", admin+"/clients", `{"client_id": "app", "client_secret": "a secret of the suite", "redirect_uris": ["`+callback+`"],
		"grant_types": ["authorization_code", "refresh_token"], "scope": "openid offline_access"}`).Body.Close()
	return &site{
		version: goVersion(t, path, "github.com/ory/hydra/v2"),
		source:  tokensource.RefreshToken{Endpoint: endpoint},
		login: func(t *testing.T) *tokensource.Token {
			return browse(t, endpoint, base+"/oauth2/auth", func(_ *http.Client, at *url.URL) string {
				switch at.Path {
				case "/login":
					return member(t, ask(t, "PUT", admin+"/oauth2/auth/requests/login/accept?"+at.RawQuery, `{"subject": "peter"}`), "redirect_to")
				case "/consent":
					return member(t, ask(t, "PUT", admin+"/oauth2/auth/requests/consent/accept?"+at.RawQuery,
						`{"grant_scope": ["openid", "offline_access"]}`), "redirect_to")
				}
				return ""
			})
		},
		api: base + "/userinfo",
		alone: func(string) { // all of the client's
			request(t, "DELETE", admin+"/oauth2/tokens?client_id=app", nil, nil).Body.Close()
		},
		revoke: revokes(t, base+"/oauth2/revoke", endpoint),
	}
}
