package docs_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// The recipes of recipes.md. Each takes what differs from one user to the next.

// gitHubApp obtains the tokens of an installation of a GitHub App.
func gitHubApp(api, clientID, installation string, key crypto.Signer) tokensource.Source {
	app := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{
		Source: &tokensource.SignedJWT{Key: key, Issuer: clientID, Lifetime: 9 * time.Minute},
	}}}
	endpoint := tokensource.Endpoint{
		URL:         api + "/app/installations/" + installation + "/access_tokens",
		Client:      app,
		RequestJSON: func(url.Values) any { return struct{}{} },
		ReplyJSON: func(body []byte) ([]byte, error) {
			var r struct {
				Token     string
				ExpiresAt string `json:"expires_at"`
			}
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]string{"access_token": r.Token, "expires_at": r.ExpiresAt})
		},
	}
	return &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
		return endpoint.Exchange(ctx, nil)
	})}
}

// googleServiceAccount obtains tokens for the account of a key file.
func googleServiceAccount(tokenURI, clientEmail, keyID string, key crypto.Signer, scopes ...string) tokensource.Source {
	return &tokensource.Cache{Source: &tokensource.JWTBearer{
		Endpoint: tokensource.Endpoint{URL: tokenURI},
		Assertion: &tokensource.SignedJWT{
			Key:      key,
			KeyID:    keyID,
			Issuer:   clientEmail,
			Audience: []string{tokenURI},
			Claims:   map[string]any{"scope": strings.Join(scopes, " ")},
		},
	}}
}

// azureWorkload exchanges the token of a Kubernetes service account for one of Entra.
func azureWorkload(authority, tenant, clientID, tokenFile, scope string) tokensource.Source {
	return &tokensource.Cache{Source: &tokensource.ClientCredentials{
		Endpoint: tokensource.Endpoint{
			URL:             authority + tenant + "/oauth2/v2.0/token",
			ClientID:        clientID,
			ClientAssertion: &tokensource.File{Path: tokenFile},
		},
		Scopes: []string{scope},
	}}
}

// projected reads a service account token that Kubernetes projects into the pod.
func projected(path string) tokensource.Source {
	return &tokensource.Cache{Source: &tokensource.File{Path: path}}
}

// salesforce obtains tokens for a user who has approved the app beforehand.
func salesforce(login, consumerKey, username string, key crypto.Signer) tokensource.Source {
	return &tokensource.Cache{Source: &tokensource.JWTBearer{
		Endpoint: tokensource.Endpoint{URL: login + "/services/oauth2/token"},
		Assertion: &tokensource.SignedJWT{
			Key:      key,
			Issuer:   consumerKey,
			Subject:  username,
			Audience: []string{login},
			Lifetime: 3 * time.Minute,
		},
	}}
}

// instanceURL returns where the API is: Salesforce sends it with the token.
func instanceURL(ctx context.Context, source tokensource.Source) (string, error) {
	token, err := source.Token(ctx, nil)
	if err != nil {
		return "", err
	}
	var instance string
	err = json.Unmarshal(token.Extra["instance_url"], &instance)
	return instance, err
}

// snowflake signs the tokens itself. The account and the user are in upper case.
func snowflake(account, user string, key crypto.Signer) (tokensource.Source, error) {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	fingerprint := sha256.Sum256(public)
	name := account + "." + user
	return &tokensource.Cache{Source: &tokensource.SignedJWT{
		Key:      key,
		Issuer:   name + ".SHA256:" + base64.StdEncoding.EncodeToString(fingerprint[:]),
		Subject:  name,
		Lifetime: 59 * time.Minute,
	}}, nil
}

// snowflakeType says what kind of token Auth has added.
type snowflakeType struct{ base http.RoundTripper }

func (s snowflakeType) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Snowflake-Authorization-Token-Type", "KEYPAIR_JWT")
	return s.base.RoundTrip(req)
}

// slack exchanges a refresh token that rotates. Share it by a Stored.
func slack(api, clientID, clientSecret, refreshToken string) *tokensource.RefreshToken {
	return &tokensource.RefreshToken{
		Endpoint: tokensource.Endpoint{
			URL:              api + "/oauth.v2.access",
			ClientID:         clientID,
			ClientSecret:     clientSecret,
			ClientSecretPost: true,
			ReplyJSON: func(body []byte) ([]byte, error) {
				var r map[string]any
				err := json.Unmarshal(body, &r)
				delete(r, "token_type") // bot and user are no authentication schemes
				merged, _ := json.Marshal(r)
				return merged, err
			},
		},
		RefreshToken: refreshToken,
		Final: func(refusal *tokensource.EndpointError) bool {
			return refusal.Code == "invalid_refresh_token" || refusal.Code == "token_revoked"
		},
	}
}

// slackRefuses is for Auth.Refused: Slack answers 200.
func slackRefuses(resp *http.Response) bool {
	return transport.Unauthorized(resp) ||
		resp.StatusCode == http.StatusOK && transport.HasJSON(resp, "error", "token_expired", "invalid_auth")
}

// vault logs in by AppRole, and renews the token for as long as Vault lets it.
func vault(address, roleID, secretID string) tokensource.Source {
	ask := func(ctx context.Context, path, token string, body any) (*tokensource.Token, error) {
		client := &http.Client{}
		if token != "" {
			client.Transport = &transport.Auth{Source: tokensource.Static(&tokensource.Token{AccessToken: token})}
		}
		endpoint := tokensource.Endpoint{
			URL:         address + "/v1/auth/" + path,
			Client:      client,
			RequestJSON: func(url.Values) any { return body },
			ReplyJSON: func(body []byte) ([]byte, error) {
				var r struct {
					Auth struct {
						ClientToken   string `json:"client_token"`
						LeaseDuration int    `json:"lease_duration"`
					}
				}
				if err := json.Unmarshal(body, &r); err != nil {
					return nil, err
				}
				return json.Marshal(map[string]any{"access_token": r.Auth.ClientToken, "expires_in": r.Auth.LeaseDuration})
			},
		}
		return endpoint.Exchange(ctx, nil)
	}
	return &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		if old != nil {
			if token, err := ask(ctx, "token/renew-self", old.AccessToken, struct{}{}); err == nil {
				return token, nil
			}
		}
		return ask(ctx, "approle/login", "", map[string]string{"role_id": roleID, "secret_id": secretID})
	})}
}

// registry has a token for each scope of a container registry. scopeKey{} is where
// the request's context has the scope, such as repository:library/alpine:pull.
func registry(realm, service, username, password string) *tokensource.Keyed[string] {
	return &tokensource.Keyed[string]{
		Key: func(ctx context.Context) (string, error) {
			scope, ok := ctx.Value(scopeKey{}).(string)
			if !ok {
				return "", errors.New("no scope in the context")
			}
			return scope, nil
		},
		New: func(scope string) *tokensource.Cache {
			endpoint := tokensource.Endpoint{URL: realm, ClientID: "tokentripper"}
			form := url.Values{
				"grant_type": {"password"}, "username": {username}, "password": {password},
				"service": {service}, "scope": {scope},
			}
			return &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
				return endpoint.Exchange(ctx, form)
			})}
		},
	}
}

type scopeKey struct{}

// scopeOf reads from a challenge what a registry wants: ask it once, without a token.
func scopeOf(resp *http.Response) (realm, service, scope string) {
	for _, c := range transport.Challenges(resp) {
		if strings.EqualFold(c.Scheme, "Bearer") {
			return c.Params["realm"], c.Params["service"], c.Params["scope"]
		}
	}
	return "", "", ""
}

// keepAlive asks for the token while no request does, so that a login that ends when
// it is idle lives on: the Cache refreshes a token that is due. It returns when ctx
// ends, or when a login is needed.
func keepAlive(ctx context.Context, source tokensource.Source, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if _, err := source.Token(ctx, nil); errors.Is(err, tokensource.ErrReauthenticate) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
