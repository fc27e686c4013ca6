package mcpauth_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"github.com/tokentripper/tokentripper/tokensource"
)

// These tests show what version 1.8.0 of the SDK does by itself. docs/servers.md tells of it.

// sdkHandler returns the SDK's own authorization.
func sdkHandler(t *testing.T) auth.OAuthHandler {
	h, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		PreregisteredClient: &oauthex.ClientCredentials{ClientID: "test"},
		RedirectURL:         redirectURL,
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			at, err := url.Parse(args.URL)
			if err != nil {
				return nil, err
			}
			state := at.Query().Get("state")
			code, err := browse(ctx, state, args.URL)
			return &auth.AuthorizationResult{Code: code, State: state}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestTheSDKAloneLogsInAgainForARevokedToken(t *testing.T) {
	s := newSite(t)
	session := connectBy(t, &mcp.StreamableClientTransport{Endpoint: s.endpoint, OAuthHandler: sdkHandler(t)}, nil)
	s.RevokeAccess()
	if err := call(t.Context(), session, 0); err != nil || s.logins() != 2 {
		t.Errorf("got %v after %d logins, want no error and 2 logins", err, s.logins())
	}
}

func TestTheSDKAloneRefreshesWithoutResource(t *testing.T) {
	s := newSite(t)
	s.SetLifetime(5*time.Second, 0) // x/oauth2 refreshes 10 s before the end
	session := connectBy(t, &mcp.StreamableClientTransport{Endpoint: s.endpoint, OAuthHandler: sdkHandler(t)}, nil)
	if err := call(t.Context(), session, 0); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	refreshes := 0
	for _, form := range s.forms {
		if form.Get("grant_type") == "refresh_token" {
			refreshes++
			if form.Has("resource") {
				t.Errorf("got the resource %q, want none", form.Get("resource"))
			}
		}
	}
	if refreshes == 0 {
		t.Error("there was no refresh")
	}
}

// A bearer sends a token with all requests, except those of a method.
type bearer struct{ token, except string }

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if req.Method != b.except {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	return http.DefaultTransport.RoundTrip(req)
}

// token returns an access token of the site.
func (s *site) token(t *testing.T) string {
	t.Helper()
	source := tokensource.RefreshToken{RefreshToken: s.RefreshToken(),
		Endpoint: tokensource.Endpoint{URL: s.TokenURL(), ClientID: s.ClientID, ClientSecret: s.ClientSecret}}
	token, err := source.Token(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return token.AccessToken
}

func TestA401EndsTheSessionOfTheSDKAlone(t *testing.T) {
	s := newSite(t)
	session := s.connect(t, bearer{s.token(t), ""}, nil)
	if err := call(t.Context(), session, 0); err != nil {
		t.Fatal(err)
	}
	s.closed.Store(true)
	call(t.Context(), session, 0)
	s.closed.Store(false)
	if err := call(t.Context(), session, 0); err == nil {
		t.Error("the session goes on")
	}
}

func TestA401ForTheStandingStreamLosesTheNotificationsOfTheSDKAlone(t *testing.T) {
	t.Parallel()
	s, notes := newSite(t), new(heard)
	session := s.connect(t, bearer{s.token(t), http.MethodGet}, notes.options())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	sent := s.notify(ctx.Done())
	if err := call(t.Context(), session, 0); err != nil || sent == 0 || notes.count() != 0 {
		t.Errorf("%d of %d notifications have arrived, and a call got %v; want none, and no error", notes.count(), sent, err)
	}
}
