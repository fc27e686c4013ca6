package servers_test

import (
	"os/exec"
	"testing"

	"github.com/tokentripper/tokentripper/internal/lab/programs"
	"github.com/tokentripper/tokentripper/tokensource"
)

func startOIDCProvider(t *testing.T) *site {
	node, dir, port := program(t, "node"), install(t, "oidc-provider"), programs.FreePort()
	cmd := exec.Command(node, "server.js", port)
	cmd.Dir = dir
	run(t, port, cmd)
	base := "http://127.0.0.1:" + port
	endpoint := tokensource.Endpoint{Issuer: &tokensource.Issuer{URL: base}, ClientID: "app", ClientSecret: "a secret of the suite"}
	return &site{
		version: npmVersion(t, dir, "oidc-provider"),
		source:  tokensource.RefreshToken{Endpoint: endpoint},
		login: func(t *testing.T) *tokensource.Token {
			return &tokensource.Token{RefreshToken: member(t, request(t, "POST", base+"/test/login", nil, nil), "refresh_token")}
		},
		api:    base + "/me",
		revoke: revokes(t, base+"/token/revocation", endpoint),
		alone:  func(access string) { request(t, "POST", base+"/test/revoke/"+access, nil, nil).Body.Close() },
	}
}
