package tokensource_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// loginAPI stands for a server that always answers this.
func loginAPI(reply string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := io.ReadAll(r.Body)
		fmt.Println("got", string(request))
		fmt.Fprint(w, reply)
	}))
}

func printToken(source tokensource.Source) {
	token, err := source.Token(context.Background(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(token.AccessToken, token.RefreshToken, time.Until(token.Expiry).Round(time.Minute))
}

// A login API that takes JSON, and has other names and milliseconds.
func ExampleEndpoint_RequestJSON() {
	server := loginAPI(`{"accessToken":"access","refreshToken":"next","expiresInMs":900000}`)
	defer server.Close()

	endpoint := tokensource.Endpoint{
		URL: server.URL,
		RequestJSON: func(form url.Values) any {
			return map[string]string{"refreshToken": form.Get("refresh_token")}
		},
		ReplyJSON: func(body []byte) ([]byte, error) {
			var r struct {
				AccessToken, RefreshToken string
				ExpiresInMs               float64
				Error                     string
			}
			if err := json.Unmarshal(body, &r); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]any{
				"access_token": r.AccessToken, "refresh_token": r.RefreshToken, "expires_in": r.ExpiresInMs / 1000, "error": r.Error,
			})
		},
	}
	printToken(&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: "first"})
	// Output:
	// got {"refreshToken":"first"}
	// access next 15m0s
}

// A server that wraps RFC 6749's reply, and reports errors by a code of its own.
func ExampleEndpoint_ReplyJSON() {
	server := loginAPI(`{"code":0,"data":{"access_token":"access","refresh_token":"next","expires_in":900}}`)
	defer server.Close()

	endpoint := tokensource.Endpoint{
		URL: server.URL,
		ReplyJSON: func(body []byte) ([]byte, error) {
			var r struct {
				Code int
				Data json.RawMessage
			}
			if err := json.Unmarshal(body, &r); err != nil || r.Code == 0 {
				return r.Data, err
			}
			return json.Marshal(map[string]string{"error": fmt.Sprint(r.Code)})
		},
	}
	printToken(&tokensource.RefreshToken{Endpoint: endpoint, RefreshToken: "first", Final: func(refusal *tokensource.EndpointError) bool {
		return refusal.Code == "20037" // this server's word for an expired refresh token
	}})
	// Output:
	// got grant_type=refresh_token&refresh_token=first
	// access next 15m0s
}

// A token_type that is no authentication scheme, such as Slack's bot, is sent as
// Bearer if ReplyJSON says so.
func ExampleEndpoint_ReplyJSON_tokenType() {
	server := loginAPI(`{"ok":true,"access_token":"access","token_type":"bot"}`)
	defer server.Close()

	endpoint := tokensource.Endpoint{
		URL: server.URL,
		ReplyJSON: func(body []byte) ([]byte, error) {
			var r map[string]any
			err := json.Unmarshal(body, &r)
			delete(r, "token_type")
			merged, _ := json.Marshal(r)
			return merged, err
		},
	}
	token, err := endpoint.Exchange(context.Background(), url.Values{"grant_type": {"client_credentials"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(token.Authorization())
	// Output:
	// got grant_type=client_credentials
	// Bearer access <nil>
}

// A login by an authorization code. The tokens are bound to a key: the proof for the
// exchange of the code is by the same key as the proofs of all later requests.
func ExampleEndpoint_Exchange() {
	server := tokentest.Start() // stands for an authorization server and an API
	defer server.Close()
	server.SetDPoP(tokentest.DPoP{Required: true})

	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	prover := &transport.DPoP{Key: key}
	endpoint := tokensource.Endpoint{
		URL: server.TokenURL(), ClientID: server.ClientID, ClientSecret: server.ClientSecret,
		Client: &http.Client{Transport: prover},
	}
	cache := &tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: endpoint}}

	// With a code: grant_type authorization_code, code, redirect_uri and code_verifier.
	login := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {server.RefreshToken()}}
	token, err := endpoint.Exchange(context.Background(), login)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := cache.Set(context.Background(), token); err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: &transport.Auth{Source: cache, Base: prover}}
	resp, err := client.Post(server.APIURL(), "text/plain", strings.NewReader("hello"))
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 200 OK
}
