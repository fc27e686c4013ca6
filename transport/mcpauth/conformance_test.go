package mcpauth_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

var conformance = flag.Bool("conformance", false, "run the scenarios of @modelcontextprotocol/conformance, which needs npm and Node.js 22")

// scenarios are those of the client's authorization, without auth/2025-03-26-oauth-metadata-backcompat: its server names
// an issuer that is not the one asked for, which RFC 8414 section 3.3 tells clients to refuse.
var scenarios = []string{
	"auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3", "auth/basic-cimd",
	"auth/scope-from-www-authenticate", "auth/scope-from-scopes-supported", "auth/scope-omitted-when-undefined",
	"auth/scope-step-up", "auth/scope-retry-limit",
	"auth/token-endpoint-auth-basic", "auth/token-endpoint-auth-post", "auth/token-endpoint-auth-none", "auth/pre-registration",
	"auth/2025-03-26-oauth-endpoint-fallback",
	"auth/resource-mismatch", "auth/offline-access-scope", "auth/offline-access-not-supported",
	"auth/client-credentials-jwt", "auth/client-credentials-basic", "auth/cross-app-access-complete-flow",
}

func TestTheScenariosOfTheConformanceSuitePass(t *testing.T) {
	if !*conformance {
		t.Skip("-conformance is not set")
	}
	dir, self := install(t), os.Args[0]
	for _, name := range scenarios {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "node_modules/@modelcontextprotocol/conformance/dist/index.js"),
				"client", "--scenario", name, "--command", self)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			for _, line := range regexp.MustCompile(`(?m)^.*(Passed|warnings):.*$`).FindAllString(string(out), -1) {
				t.Log(line)
			}
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// install installs the suite of the lock file into a temporary folder.
func install(t *testing.T) (dir string) {
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/conformance")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// TestMain lets the suite run this program as the client of a scenario.
func TestMain(m *testing.M) {
	if os.Getenv("MCP_CONFORMANCE_SCENARIO") == "" {
		os.Exit(m.Run())
	}
	if err := scenario(context.Background(), os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A visitor is the client of a scenario. Its fields are what the suite tells it.
type visitor struct {
	ClientID         string `json:"client_id"`
	ClientSecret     string `json:"client_secret"`
	PrivateKey       string `json:"private_key_pem"`
	IDPClientID      string `json:"idp_client_id"`
	IDPToken         string `json:"idp_id_token"`
	IDPTokenEndpoint string `json:"idp_token_endpoint"`
}

// scenario lists the server's tools and calls the first.
func scenario(ctx context.Context, server string) error {
	var v visitor
	if err := json.Unmarshal([]byte(os.Getenv("MCP_CONFORMANCE_CONTEXT")), &v); err != nil && os.Getenv("MCP_CONFORMANCE_CONTEXT") != "" {
		return err
	}
	a := &mcpauth.Auth{Server: server, Login: v.login, Endpoint: tokensource.Endpoint{ClientID: v.ClientID, ClientSecret: v.ClientSecret}}
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: server, HTTPClient: &http.Client{Transport: a}}, nil)
	if err != nil {
		return err
	}
	defer session.Close()
	tools, err := session.ListTools(ctx, nil)
	if err != nil || len(tools.Tools) == 0 {
		return err
	}
	_, err = session.CallTool(ctx, &mcp.CallToolParams{Name: tools.Tools[0].Name})
	return err
}

// login uses the grant for which the suite has given what it needs.
func (v *visitor) login(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	switch {
	case v.IDPToken != "":
		return v.crossApp(ctx, d)
	case v.PrivateKey != "":
		key, err := tokensource.ParsePrivateKey([]byte(v.PrivateKey))
		if err != nil {
			return nil, err
		}
		d.Endpoint.ClientAssertion = &tokensource.SignedJWT{Key: key, Issuer: v.ClientID, Subject: v.ClientID, Audience: []string{d.Server.Issuer}}
		return service(ctx, d)
	case slices.Equal(d.Server.GrantTypesSupported, []string{"client_credentials"}):
		return service(ctx, d)
	}
	return v.user(ctx, d)
}

// service obtains a token for the client itself.
func service(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	return (&tokensource.ClientCredentials{Endpoint: d.Endpoint, Scopes: d.Scopes}).Token(ctx, nil)
}

// crossApp exchanges the token of the user's identity provider.
func (v *visitor) crossApp(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	grant := &tokensource.TokenExchange{
		Endpoint: tokensource.Endpoint{URL: v.IDPTokenEndpoint, ClientID: v.IDPClientID,
			Params: url.Values{"resource": {d.Resource}, "audience": {d.Server.Issuer}}},
		Subject:       tokensource.Static(&tokensource.Token{AccessToken: v.IDPToken}),
		SubjectType:   "urn:ietf:params:oauth:token-type:id_token",
		RequestedType: "urn:ietf:params:oauth:token-type:id-jag",
	}
	return (&tokensource.JWTBearer{Endpoint: d.Endpoint, Assertion: grant}).Token(ctx, nil)
}

// user logs in as a user in a browser does. The suite's server does not ask the user.
func (v *visitor) user(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	if err := identify(ctx, d); err != nil {
		return nil, err
	}
	return logIn(ctx, d)
}

// identify makes a client that has no id yet known to the server.
func identify(ctx context.Context, d *mcpauth.Discovery) error {
	if d.Endpoint.ClientID != "" {
		return nil
	}
	if d.Server.ClientIDMetadataDocumentSupported {
		d.Endpoint.ClientID = "https://conformance-test.local/client-metadata.json"
		return nil
	}
	r, err := oauthex.RegisterClient(ctx, d.Server.RegistrationEndpoint, &oauthex.ClientRegistrationMetadata{
		RedirectURIs: []string{redirectURL}, GrantTypes: []string{"authorization_code", "refresh_token"}}, nil)
	if err != nil {
		return err
	}
	d.Endpoint.ClientID, d.Endpoint.ClientSecret = r.ClientID, r.ClientSecret
	d.Endpoint.ClientSecretPost = r.TokenEndpointAuthMethod == "client_secret_post"
	return nil
}
