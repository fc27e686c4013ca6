package main

import (
	"context"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"golang.org/x/oauth2"
)

var azcorePeer = peer{
	name:   "azcore",
	module: "github.com/Azure/azure-sdk-for-go/sdk/azcore",
	setup: "a pipeline with `runtime.NewBearerTokenPolicy`, over a credential without a cache of its own, and with an `OnChallenge` that asks for a token again: " +
		"without one, it sends nothing again but for claims challenges.",
	dial: func(w *world) (doer, error) {
		bearer := runtime.NewBearerTokenPolicy(&azcoreCredential{w}, []string{"scope"}, &policy.BearerTokenOptions{
			AuthorizationHandler: policy.AuthorizationHandler{
				OnChallenge: func(_ *policy.Request, _ *http.Response, authorize func(policy.TokenRequestOptions) error) error {
					return authorize(policy.TokenRequestOptions{Scopes: []string{"scope"}})
				},
			},
			InsecureAllowCredentialWithHTTP: true,
		})
		return &azcoreClient{runtime.NewPipeline("peers", "v1.0.0",
			runtime.PipelineOptions{PerRetry: []policy.Policy{bearer}},
			&policy.ClientOptions{Transport: w.client(), Telemetry: policy.TelemetryOptions{Disabled: true}},
		)}, nil
	},
}

// An azcoreCredential obtains a token each time, by x/oauth2.
type azcoreCredential struct{ *world }

func (c *azcoreCredential) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.client())
	token, err := xoauth2Config(c.world).Token(ctx)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: token.Expiry}, nil
}

// An azcoreClient is a pipeline that takes a plain request, and leaves the
// response's body unread, as clients do that stream.
type azcoreClient struct{ pipeline runtime.Pipeline }

func (c *azcoreClient) Do(req *http.Request) (*http.Response, error) {
	r, err := runtime.NewRequestFromRequest(req)
	if err != nil {
		return nil, err
	}
	runtime.SkipBodyDownload(r)
	return c.pipeline.Do(r)
}
