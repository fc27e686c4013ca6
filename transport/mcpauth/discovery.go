package mcpauth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A Discovery is what the MCP server and its authorization server say of a login.
type Discovery struct {
	// Resource identifies the MCP server. The authorization request must have it as
	// parameter resource (RFC 8707). The Params of Endpoint have it already.
	Resource string

	// Scopes are the scopes to request. They are those of the challenge, or else all that
	// the server's metadata name. Those of the login before are added, and offline_access
	// if the authorization server has it. Nil means to leave the parameter scope out.
	Scopes []string

	// Server is the metadata of the authorization server. It supports PKCE. If it has
	// no metadata, these are the endpoints /authorize, /token and /register of MCP's
	// revision 2025-03-26.
	Server *oauthex.AuthServerMeta

	// Endpoint is the token endpoint: Auth.Endpoint with URL, Params and
	// ClientSecretPost completed. Refreshes use its URL, ClientID, ClientSecret and
	// ClientSecretPost as Login leaves them, and the other fields of Auth.Endpoint.
	Endpoint tokensource.Endpoint
}

// discoveryTime bounds all requests of a discovery.
const discoveryTime = 10 * time.Second

// discover finds the authorization server by the challenges, which may be none.
func (a *Auth) discover(ctx context.Context, challenges []transport.Challenge) (*Discovery, error) {
	ctx, cancel := context.WithTimeout(ctx, discoveryTime)
	defer cancel()
	resource, err := a.resource(ctx, param(challenges, "resource_metadata"))
	if err != nil {
		return nil, fmt.Errorf("mcpauth: the server's metadata: %.1000v", err)
	}
	issuer := resource.AuthorizationServers[0]
	server, err := auth.GetAuthServerMetadata(ctx, issuer, a.Endpoint.Client)
	if err != nil {
		return nil, fmt.Errorf("mcpauth: the authorization server's metadata: %.1000v", err)
	}
	if server == nil {
		base := strings.TrimSuffix(issuer, "/")
		server = &oauthex.AuthServerMeta{
			Issuer:                issuer,
			AuthorizationEndpoint: base + "/authorize",
			TokenEndpoint:         base + "/token",
			RegistrationEndpoint:  base + "/register",
		}
	}
	d := &Discovery{Resource: resource.Resource, Server: server, Endpoint: a.Endpoint}
	d.Endpoint.URL = server.TokenEndpoint
	d.Endpoint.Params = forResource(a.Endpoint.Params, d.Resource)
	methods := server.TokenEndpointAuthMethodsSupported
	if slices.Contains(methods, "client_secret_post") && !slices.Contains(methods, "client_secret_basic") {
		d.Endpoint.ClientSecretPost = true
	}
	d.Scopes = a.scopes(ctx, challenges, resource, server)
	return d, nil
}

// resource reads the MCP server's metadata: where the challenge says, or else at the
// well-known places (RFC 9728 section 3). If there are none, the server is its own
// authorization server, by MCP's revision 2025-03-26.
func (a *Auth) resource(ctx context.Context, at string) (*oauthex.ProtectedResourceMetadata, error) {
	server, _ := url.Parse(a.Server) // RoundTrip has checked it
	root := a.origin()
	places := [][2]string{{at, a.Server}, {at, root}}
	if at == "" {
		known := root + "/.well-known/oauth-protected-resource"
		places = [][2]string{{known + strings.TrimSuffix(server.EscapedPath(), "/"), a.Server}, {known, root}}
	}
	var errs []error
	for _, place := range places {
		m, err := oauthex.GetProtectedResourceMetadata(ctx, place[0], place[1], a.Endpoint.Client)
		if err == nil && len(m.AuthorizationServers) > 0 {
			return m, nil
		}
		if err == nil {
			err = errors.New("no authorization_servers")
		}
		errs = append(errs, err)
	}
	if at != "" || ctx.Err() != nil {
		return nil, errors.Join(errs...)
	}
	return &oauthex.ProtectedResourceMetadata{Resource: a.Server, AuthorizationServers: []string{root}}, nil
}

// forResource adds the parameter resource.
func forResource(params url.Values, resource string) url.Values {
	all := url.Values{"resource": {resource}}
	for name, values := range params {
		all[name] = values
	}
	return all
}

// scopes returns the scopes to request.
func (a *Auth) scopes(ctx context.Context, challenges []transport.Challenge, resource *oauthex.ProtectedResourceMetadata,
	server *oauthex.AuthServerMeta) []string {
	scopes := strings.Fields(param(challenges, "scope"))
	if len(scopes) == 0 {
		scopes = slices.Clone(resource.ScopesSupported)
	}
	r, _ := recordOf(a.tokens.Peek(ctx, nil))
	scopes = append(scopes, r.Scopes...)
	if slices.Contains(server.ScopesSupported, "offline_access") {
		scopes = append(scopes, "offline_access")
	}
	slices.Sort(scopes)
	return slices.Compact(scopes)
}

// maxScopes is how many scopes a token may have for Login to be called for another one.
// Each may need the user, and all are stored.
const maxScopes = 100

// lacks reports whether Login was not told to request one of the scopes for the current
// token, and may be.
func (a *Auth) lacks(ctx context.Context, scopes []string) bool {
	r, known := recordOf(a.tokens.Peek(ctx, nil))
	return known && len(r.Scopes) < maxScopes && slices.ContainsFunc(scopes, func(s string) bool { return !slices.Contains(r.Scopes, s) })
}

// insufficient returns the scopes of a challenge that demands a token with these (RFC
// 6750 section 3.1).
func insufficient(challenges []transport.Challenge) (scopes []string, ok bool) {
	for _, c := range challenges {
		if bears(c) && c.Params["error"] == "insufficient_scope" {
			return strings.Fields(c.Params["scope"]), true
		}
	}
	return nil, false
}

// param returns a parameter of the first challenge for an access token that has it.
func param(challenges []transport.Challenge, name string) string {
	for _, c := range challenges {
		if bears(c) && c.Params[name] != "" {
			return c.Params[name]
		}
	}
	return ""
}

func bears(c transport.Challenge) bool {
	return strings.EqualFold(c.Scheme, "Bearer") || strings.EqualFold(c.Scheme, "DPoP")
}
