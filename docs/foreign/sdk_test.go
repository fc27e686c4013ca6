package foreign_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/aws/smithy-go/auth/bearer"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tokentripper/tokentripper/internal/lab/pages"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A credential is an azcore.TokenCredential over a Cache. The scopes are those of Grant,
// whatever azcore asks for.
//
// azcore keeps the token, and asks again 5 minutes before it expires, after each 401,
// and for a claims challenge (continuous access evaluation, CAE). Only for such a
// challenge it sends the request again. It cannot say that another 401 refused the
// token: then the caller gets the 401, until the token expires or a request through a
// transport.Auth over the same Cache is refused.
type credential struct {
	Cache *tokensource.Cache
	Grant *tokensource.ClientCredentials // that of the Cache
}

func (c *credential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if options.Claims != "" {
		if err := c.satisfy(ctx, options.Claims); err != nil {
			return azcore.AccessToken{}, err
		}
	}
	token, err := c.Cache.Token(ctx, nil)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: token.Expiry, RefreshOn: token.RefreshAt}, nil
}

// satisfy obtains a token with the claims that an API demands. The Cache's next refresh
// requests a token without them. Entra sends such challenges to clients only that declare
// it, by claims of their own in Params: merge the two then.
func (c *credential) satisfy(ctx context.Context, claims string) error {
	grant := *c.Grant
	grant.Endpoint.Params = url.Values{}
	maps.Copy(grant.Endpoint.Params, c.Grant.Endpoint.Params)
	grant.Endpoint.Params.Set("claims", claims)
	token, err := grant.Token(ctx, nil)
	if err != nil {
		return err
	}
	return c.Cache.Set(ctx, token)
}

// An API demands a token that was issued after a change of the client's permissions.
// azcore asks the credential for it.
func Example_azcore() {
	srv := tokentest.Start()
	defer srv.Close()
	const changed = `{"access_token":{"nbf":{"essential":true,"value":"1796000000"}}}`
	var claims string // of the newest token request
	idp := roundTripper(func(req *http.Request) (*http.Response, error) {
		body, _ := req.GetBody()
		text, _ := io.ReadAll(body)
		form, _ := url.ParseQuery(string(text))
		claims = form.Get("claims")
		return http.DefaultTransport.RoundTrip(req)
	})
	api := httptest.NewTLSServer(srv.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if claims != changed {
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_claims", claims="`+base64.StdEncoding.EncodeToString([]byte(changed))+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})))
	defer api.Close()

	grant := &tokensource.ClientCredentials{Endpoint: tokensource.Endpoint{
		URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret, Client: &http.Client{Transport: idp},
	}}
	var cred azcore.TokenCredential = &credential{&tokensource.Cache{Source: grant}, grant}

	pages.Status(azureGet(cred, api))
	fmt.Println("token requests:", srv.Counts().TokenRequests)
	// Output:
	// 200 OK
	// token requests: 2
}

// azureGet sends a request as the clients of Azure do.
func azureGet(cred azcore.TokenCredential, api *httptest.Server) (*http.Response, error) {
	sign := runtime.NewBearerTokenPolicy(cred, []string{"https://api.example.com/.default"}, nil)
	client := runtime.NewPipeline("reports", "v1", runtime.PipelineOptions{PerRetry: []policy.Policy{sign}},
		&policy.ClientOptions{Transport: api.Client()})
	req, err := runtime.NewRequest(context.Background(), http.MethodGet, api.URL)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

func TestARefusalWithoutClaimsReachesTheCallerOfAzcore(t *testing.T) {
	srv := tokentest.NewServer(t)
	api := httptest.NewTLSServer(srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer api.Close()
	cache := cacheOf(srv)
	cred := &credential{Cache: cache}
	status := func(what string, status int) {
		resp, err := azureGet(cred, api)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		want(t, what, resp.StatusCode, status)
	}
	status("at first", 200)
	srv.RevokeAccess()
	status("after a revocation", 401)
	status("again", 401)
	get(t, &http.Client{Transport: &transport.Auth{Source: cache, Base: api.Client().Transport}}, api.URL)
	status("after a request through Auth", 200)
}

// bearerTokens returns what the clients of AWS want for bearer authentication, such as
// aws.Config.BearerAuthTokenProvider. They ask with each call. A 401 reaches the caller.
func bearerTokens(source tokensource.Source) bearer.TokenProvider {
	return bearer.TokenProviderFunc(func(ctx context.Context) (bearer.Token, error) {
		t, err := source.Token(ctx, nil)
		if err != nil {
			return bearer.Token{}, err
		}
		return bearer.Token{Value: t.AccessToken, CanExpire: !t.Expiry.IsZero(), Expires: t.Expiry}, nil
	})
}

func Example_aws() {
	srv := tokentest.Start()
	defer srv.Close()
	api := httptest.NewTLSServer(srv.Protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer api.Close()
	ctx := context.Background()
	provider := bearerTokens(cacheOf(srv))

	for range 2 {
		token, err := provider.RetrieveBearerToken(ctx)
		if err != nil {
			log.Fatal(err)
		}
		req := smithyhttp.NewStackRequest().(*smithyhttp.Request)
		req.URL, _ = url.Parse(api.URL)
		signed, err := bearer.NewSignHTTPSMessage().SignWithBearerToken(ctx, token, req) // as the SDK does
		if err != nil {
			log.Fatal(err)
		}
		pages.Status(api.Client().Do(signed.(*smithyhttp.Request).Build(ctx)))
	}
	fmt.Println("token requests:", srv.Counts().TokenRequests)
	// Output:
	// 200 OK
	// 200 OK
	// token requests: 1
}
