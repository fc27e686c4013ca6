package tokensource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/internal/origin"
	"github.com/tokentripper/tokentripper/internal/proofsent"
)

// An Endpoint is the token endpoint of an authorization server, and how this client
// authenticates there (RFC 6749 sections 2.3 and 3.2).
//
// Printed, logged or marshalled in any way, an Endpoint shows no secret.
type Endpoint struct {
	// URL is the token endpoint. Its scheme must be https, unless the host is loopback
	// or AllowHTTP is set.
	URL string

	// Issuer replaces URL: it finds the token endpoint, and whether that takes
	// ClientSecret by HTTP Basic or in the form. If Issuer is nil, you must set URL.
	Issuer *Issuer

	// ClientID is the client's identifier. Empty means that requests have none.
	ClientID string

	// ClientSecret authenticates the client by HTTP Basic (client_secret_basic). Empty
	// means a public client.
	ClientSecret string

	// ClientSecretPost sends the secret in the form instead (client_secret_post), for
	// servers that do not support Basic.
	ClientSecretPost bool

	// ClientAssertion authenticates the client by a JWT instead of a secret
	// (private_key_jwt, RFC 7523 section 2.2). It is asked for each request. Use a
	// [SignedJWT] with the client's id as Issuer and Subject, or a [File]. Nil means
	// none. Setting ClientSecret as well is an error.
	ClientAssertion Source

	// Params are further parameters of every request, such as audience or resource. A
	// parameter of the grant replaces one with the same name. Nil means none.
	Params url.Values

	// RequestJSON returns a value to send as JSON instead of the form, for servers that
	// do not accept forms. The form has grant_type and all parameters:
	//
	//	RequestJSON: func(form url.Values) any {
	//		return map[string]string{"refreshToken": form.Get("refresh_token")}
	//	}
	//
	// Put a secret that it needs into Params, so that no error shows the secret if the
	// server repeats it. RequestJSON must be safe for concurrent use. Nil means that
	// the form is sent.
	RequestJSON func(form url.Values) any

	// ReplyJSON translates the body of a reply, successful or not, into the JSON object
	// of RFC 6749 sections 5.1 and 5.2. It is for servers that wrap this object or use
	// other names. It is not called for an empty body, and must be safe for concurrent
	// use. The [EndpointError] wraps its error, which must quote nothing of the body.
	// Nil means that the server follows the RFC.
	//
	// The result is read like any reply. A lifetime is a number of seconds, or the Unix
	// time at which it ends, also in a string. A member of a wrong type counts as
	// missing, except access_token.
	ReplyJSON func(body []byte) ([]byte, error)

	// Client sends the requests. Nil means http.DefaultClient. Redirects are never
	// followed, whatever its CheckRedirect says.
	Client *http.Client

	// AllowHTTP allows unencrypted requests to carry the client's secret and tokens.
	AllowHTTP bool
}

// maxReply is how many bytes of a reply are read at most.
const maxReply = 1 << 20

// Exchange sends one token request. Use it for a grant that this package does not have:
// form holds its grant_type and parameters. The error is an [EndpointError] if the
// server refuses the request or its reply is unusable. If there is no reply, or Issuer
// finds no token endpoint, the error leaves out the URL, which may hold secrets.
func (e Endpoint) Exchange(ctx context.Context, form url.Values) (*Token, error) {
	return e.exchange(ctx, func(context.Context) (url.Values, error) { return form, nil }, nil)
}

// A grant makes the form of a token request each time that it is sent, because an
// assertion is used once.
type grant func(context.Context) (url.Values, error)

// dated holds what a refused request carried that ages, because the server may have
// refused this part.
type dated struct {
	proved    bool   // by DPoP
	assertion string // a hash of it; empty: none
	agreed    bool   // the server's clock, by its Date, agrees with the local one
}

// errSame is the error of a request that was not sent.
var errSame = errors.New("tokensource: the assertion is the one that was refused")

// exchange sends a token request. Before is nil, or the refusal of the request before:
// then exchange does not send the same assertion again.
func (e Endpoint) exchange(ctx context.Context, grant grant, before *dated) (*Token, error) {
	e, err := e.discovered(ctx)
	if err != nil {
		return nil, err
	}
	form, err := e.form(ctx, grant)
	if err != nil {
		return nil, err
	}
	now := dated{assertion: assertionIn(form)}
	if before != nil && now.assertion != "" && now.assertion == before.assertion {
		return nil, errSame
	}
	watched, proved := proofsent.Watch(ctx)
	req, err := e.request(watched, form)
	if err != nil {
		return nil, err
	}
	secrets := &secrets{forms: []url.Values{form}}
	req.GetBody = e.bodyAgain(ctx, grant, req.ContentLength, secrets)
	began := time.Now()
	resp, err := e.client().Do(req)
	if err != nil {
		e.Issuer.gone()
		return nil, borrowed{fmt.Errorf("tokensource: token endpoint: %w", secrets.of(e, req).error(bare(err)))}
	}
	defer resp.Body.Close()
	token, refusal := e.read(resp, began)
	if refusal == nil {
		return token, nil
	}
	if now.proved = proved.Load(); now.proved || now.assertion != "" {
		now.judge(refusal, resp.Header)
	}
	secrets.of(e, req).refusal(refusal)
	return nil, refusal
}

// bare returns err without the URL that http.Client adds.
func bare(err error) error {
	for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
		err = u.Err
	}
	return err
}

// judge notes in a refusal what the request carried, and whether the clocks agree.
func (d *dated) judge(refusal *EndpointError, h http.Header) {
	off, known := clockError(h, time.Now())
	d.agreed = known && off == nil
	refusal.dated = d
	if refusal.Err == nil || off != nil && refusal.Err == errNoCode {
		refusal.Err = off
	}
}

// assertionIn returns a hash of the assertions in a form, or "" if there are none.
func assertionIn(form url.Values) string {
	if !form.Has("client_assertion") && !form.Has("assertion") {
		return ""
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%q %q", form.Get("client_assertion"), form.Get("assertion")))
	return string(hash[:])
}

// form makes the whole form of a token request.
func (e Endpoint) form(ctx context.Context, grant grant) (url.Values, error) {
	own, err := grant(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{}
	maps.Copy(form, e.Params)
	maps.Copy(form, own)
	if e.ClientSecret == "" || e.ClientSecretPost {
		setNonEmpty(form, "client_id", e.ClientID)
		setNonEmpty(form, "client_secret", e.ClientSecret)
	}
	if e.ClientAssertion == nil {
		return form, nil
	}
	if e.ClientSecret != "" {
		return nil, errors.New("tokensource: Endpoint.ClientAssertion and Endpoint.ClientSecret exclude each other")
	}
	text, err := ownAssertion(ctx, "Endpoint.ClientAssertion", e.ClientAssertion)
	if err != nil {
		return nil, err
	}
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", text)
	return form, nil
}

func setNonEmpty(form url.Values, name, value string) {
	if value != "" {
		form.Set(name, value)
	}
}

// bodyAgain returns a GetBody for a layer below Client that sends the request once
// more, as transport.DPoP does with a nonce. The server may have spent the assertions,
// so the new body has new ones. They must be as long as the old ones: those of a
// SignedJWT are.
func (e Endpoint) bodyAgain(ctx context.Context, grant grant, length int64, secrets *secrets) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		form, err := e.form(ctx, grant)
		if err != nil {
			return nil, err
		}
		body, err := e.body(form)
		if err != nil {
			return nil, err
		}
		if int64(len(body)) != length {
			return nil, errors.New("tokensource: the repeated token request has a different length")
		}
		secrets.add(form)
		return io.NopCloser(strings.NewReader(body)), nil
	}
}

// body returns the form, or the JSON that replaces it.
func (e Endpoint) body(form url.Values) (string, error) {
	if e.RequestJSON == nil {
		return form.Encode(), nil
	}
	data, err := json.Marshal(e.RequestJSON(maps.Clone(form)))
	if err != nil {
		return "", fmt.Errorf("tokensource: Endpoint.RequestJSON: its result cannot be encoded as JSON: a %T", err)
	}
	return string(data), nil
}

func (e Endpoint) request(ctx context.Context, form url.Values) (*http.Request, error) {
	body, err := e.body(form)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, strings.NewReader(body))
	if err != nil || req.URL.Host == "" {
		return nil, errors.New("tokensource: Endpoint.URL is not an absolute URL")
	}
	if err := origin.CheckPrivate(e.client().Transport, req); err != nil && !e.AllowHTTP {
		return nil, fmt.Errorf("tokensource: Endpoint.URL: %w, and Endpoint.AllowHTTP is not set", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if e.RequestJSON != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if e.ClientSecret != "" && !e.ClientSecretPost {
		// RFC 6749 section 2.3.1: both are encoded first.
		req.SetBasicAuth(url.QueryEscape(e.ClientID), url.QueryEscape(e.ClientSecret))
	}
	return req, nil
}

// client follows no redirect: http.Client would send the form, and with 307 the secrets
// in it, to the target.
func (e Endpoint) client() *http.Client {
	client := *cmp.Or(e.Client, http.DefaultClient)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client
}

// fingerprint identifies whose tokens a grant without a refresh token obtains, see
// [Stored.Key].
func (e Endpoint) fingerprint(grant string, scopes []string) []string {
	return append([]string{grant, e.name(), e.ClientID, e.Params.Encode()}, scopes...)
}

// String returns the URL's host and the client's id, without a secret.
func (e Endpoint) String() string {
	return fmt.Sprintf("token endpoint at %q, client %q", e.host(), e.ClientID)
}

// Format writes [Endpoint.String] for every verb.
func (e Endpoint) Format(s fmt.State, verb rune) { io.WriteString(s, e.String()) }

// MarshalText returns [Endpoint.String], so that JSON, XML and slog show no secret.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// MarshalBinary returns an error, so that gob and similar encoders write no secret.
func (e Endpoint) MarshalBinary() ([]byte, error) { return nil, errBinary }
