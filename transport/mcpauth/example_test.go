package mcpauth_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// A client of an MCP server. The server's challenge says where the user logs in. When the
// token expires or is revoked, it is refreshed, and the session goes on.
func Example() {
	ctx := context.Background()
	server := startServer()
	defer server.Close()

	auth := &mcpauth.Auth{
		Server:   server.endpoint,
		Endpoint: tokensource.Endpoint{ClientID: "https://app.example/client.json"},
		Login:    logIn,
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "app", Version: "1.0"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint:   server.endpoint,
		HTTPClient: &http.Client{Transport: auth},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	for range 2 {
		if _, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "wait"}); err != nil {
			log.Fatal(err)
		}
		server.RevokeAccess()
	}
	fmt.Println(server.visits, "visit of the user,", server.Counts().TokenRequests, "token requests")
	// Output:
	// 1 visit of the user, 2 token requests
}

// logIn sends the user to the authorization server, and exchanges the code that comes back.
func logIn(ctx context.Context, d *mcpauth.Discovery) (*tokensource.Token, error) {
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	config := oauth2.Config{
		ClientID:    d.Endpoint.ClientID,
		Endpoint:    oauth2.Endpoint{AuthURL: d.Server.AuthorizationEndpoint},
		RedirectURL: redirectURL,
		Scopes:      d.Scopes,
	}
	code, err := browse(ctx, state, config.AuthCodeURL(state,
		oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("resource", d.Resource)))
	if err != nil {
		return nil, err
	}
	return d.Endpoint.Exchange(ctx, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {redirectURL},
		"code_verifier": {verifier},
	})
}

const redirectURL = "http://localhost:3000/callback"

// browse stands for the user's browser, and for a listener at redirectURL. The
// authorization server of these examples does not ask the user.
func browse(ctx context.Context, state, at string) (code string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		return "", err
	}
	if back.Query().Get("state") != state {
		return "", errors.New("the redirect belongs to another request")
	}
	return back.Query().Get("code"), nil
}
