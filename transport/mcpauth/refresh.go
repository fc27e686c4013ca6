package mcpauth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A record is what refreshes need beside Auth.Endpoint. It is in the Extra of each
// token, so that it is stored with the token, and a refresh token goes to no other
// server than its own, nor an access token to another MCP server.
type record struct {
	Server       string   `json:"server"` // Auth.Server
	URL          string   `json:"token_endpoint"`
	Resource     string   `json:"resource"`
	Scopes       []string `json:"scopes,omitempty"` // that Login was told to request
	Post         bool     `json:"client_secret_post,omitempty"`
	ClientID     string   `json:"client_id,omitempty"` // of a client that Login has registered
	ClientSecret string   `json:"client_secret,omitempty"`
}

// recordName is the name of the record in Token.Extra.
const recordName = "tokentripper.mcpauth"

// record returns the record of a login that was told to request the scopes. A client
// that is in a.Endpoint already is not part of it.
func (a *Auth) record(d *Discovery, scopes []string) record {
	r := record{Server: a.Server, URL: d.Endpoint.URL, Resource: d.Resource, Scopes: scopes, Post: d.Endpoint.ClientSecretPost}
	if d.Endpoint.ClientID != a.Endpoint.ClientID || d.Endpoint.ClientSecret != a.Endpoint.ClientSecret {
		r.ClientID, r.ClientSecret = d.Endpoint.ClientID, d.Endpoint.ClientSecret
	}
	return r
}

// recordOf returns the record of a token, if it has one.
func recordOf(token *tokensource.Token) (r record, ok bool) {
	if token == nil {
		return r, false
	}
	err := json.Unmarshal(token.Extra[recordName], &r)
	return r, err == nil && r.URL != ""
}

// in returns the token with the record.
func (r record) in(token *tokensource.Token) *tokensource.Token {
	data, _ := json.Marshal(r) // strings and a bool
	kept := *token
	kept.Extra = map[string]json.RawMessage{}
	maps.Copy(kept.Extra, token.Extra)
	kept.Extra[recordName] = data
	return &kept
}

// A refresher is the Source of the tokens after the first. It is below the Cache.
type refresher struct {
	endpoint tokensource.Endpoint
	server   string
}

// Token refreshes at the endpoint that issued old.
func (s refresher) Token(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	r, ok := recordOf(old)
	if !ok {
		return nil, fmt.Errorf("%w: there was no login yet", tokensource.ErrReauthenticate)
	}
	if r.Server != s.server {
		return nil, errElsewhere
	}
	source := tokensource.RefreshToken{Endpoint: s.endpoint}
	e := &source.Endpoint
	e.URL, e.ClientSecretPost, e.Params = r.URL, r.Post, forResource(e.Params, r.Resource)
	if r.ClientID != "" {
		e.ClientID, e.ClientSecret = r.ClientID, r.ClientSecret
		source.Final = func(refusal *tokensource.EndpointError) bool {
			return refusal.Code == "invalid_client" // the server has forgotten the client
		}
	}
	token, err := source.Token(ctx, old)
	if err != nil {
		return nil, err
	}
	return r.in(token), nil
}

// Format writes the endpoint for every verb, without a secret.
func (s refresher) Format(f fmt.State, verb rune) { s.endpoint.Format(f, verb) }
