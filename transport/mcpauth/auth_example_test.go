package mcpauth_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
	"github.com/tokentripper/tokentripper/transport/mcpauth"
)

// The login is in a Store, so that the user need not log in when the program starts again.
// The Memory stands for a filestore.Store.
func ExampleAuth_stored() {
	server := startServer()
	defer server.Close()
	store := new(storetest.Memory)

	for range 2 { // starts of the program
		var tokens *tokensource.Cache
		client := &http.Client{Transport: &mcpauth.Auth{
			Server:   server.endpoint,
			Endpoint: tokensource.Endpoint{ClientID: "https://app.example/client.json"},
			Login:    logIn,
			Cache: func(source tokensource.Source) *tokensource.Cache {
				tokens = &tokensource.Cache{Source: &tokensource.Stored{Source: source, Store: store, Key: "mcp"}}
				return tokens
			},
		}}
		resp, err := client.Get(server.endpoint)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		token := tokens.Peek(context.Background(), nil) // and tokens.Forget logs out
		fmt.Println(token.TokenType, "token after", server.visits, "visit of the user")
	}
	// Output:
	// Bearer token after 1 visit of the user
	// Bearer token after 1 visit of the user
}

// A server in a service mesh, which encrypts what leaves the machine, and answers an expired
// token with 403.
func ExampleAuth_serviceMesh() {
	auth := &mcpauth.Auth{
		Server:    "http://tools.mesh/mcp",
		Login:     logIn,
		Base:      http.DefaultTransport, // or layers of yours
		AllowHTTP: true,
		Refused:   transport.UnauthorizedOrForbidden,
	}
	fmt.Println(auth)
	// Output: MCP server at "http://tools.mesh" over *http.Transport
}
