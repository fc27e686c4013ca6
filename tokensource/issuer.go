package tokensource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokentripper/tokentripper/internal/origin"
)

// An Issuer finds the token endpoint of an authorization server by its metadata (RFC
// 8414, OpenID Connect Discovery 1.0). Set it as [Endpoint.Issuer].
//
// The Endpoint's Client fetches the metadata when they are first needed, again after an
// hour, and a minute after the token endpoint gave no answer or the status 404 or 410.
// If a later fetch fails, the known metadata stay in use. The metadata must use https
// like the token endpoint, name the issuer that was asked for, and have at most 1 MiB.
// Redirects are not followed.
//
// An Issuer is safe for concurrent use by several Endpoints. You must not copy it after
// its first use.
type Issuer struct {
	// URL is the issuer's identifier, exactly as in its metadata: a slash at the end
	// counts.
	URL string

	// Resource is the URL of a protected resource's metadata, for clients that know
	// only the API (RFC 9728). A challenge has this URL as resource_metadata. The
	// issuer is the first of its authorization servers. Resource is ignored if URL is
	// set.
	//
	// The operator of the API thereby chooses where the client's secret and refresh
	// token go. Set Resource only for APIs that you trust with these.
	Resource string

	flight singleflight.Group

	mu    sync.Mutex // guards what follows
	known *metadata
	until time.Time // when to fetch again
}

// metadata holds the members that a client needs of an authorization server's metadata
// (RFC 8414 section 2).
type metadata struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	Methods       []string `json:"token_endpoint_auth_methods_supported"`
}

// Bounds of Issuer.
const (
	metadataAge  = time.Hour
	metadataRest = time.Minute      // between two fetches after a failed one
	metadataTime = 10 * time.Second // for all requests of a fetch
)

// discovered returns e with the token endpoint from its Issuer's metadata.
func (e Endpoint) discovered(ctx context.Context) (Endpoint, error) {
	if e.Issuer == nil {
		return e, nil
	}
	if e.URL != "" {
		return Endpoint{}, errors.New("tokensource: Endpoint.URL and Endpoint.Issuer exclude each other")
	}
	m, err := e.Issuer.metadata(ctx, e)
	if err != nil {
		return Endpoint{}, borrowed{fmt.Errorf("tokensource: Endpoint.Issuer: %w", err)}
	}
	e.URL = m.TokenEndpoint
	if slices.Contains(m.Methods, "client_secret_post") && !slices.Contains(m.Methods, "client_secret_basic") {
		e.ClientSecretPost = true
	}
	return e, nil
}

// metadata returns the known metadata, or fetches them once for all callers.
func (i *Issuer) metadata(ctx context.Context, e Endpoint) (*metadata, error) {
	i.mu.Lock()
	known, fresh := i.known, time.Now().Before(i.until)
	i.mu.Unlock()
	if fresh {
		return known, nil
	}
	fetched := i.flight.DoChan("", func() (any, error) {
		m, err := i.fetchAlone(ctx, e)
		i.mu.Lock()
		defer i.mu.Unlock()
		switch {
		case err == nil:
			i.known, i.until = m, time.Now().Add(metadataAge)
		case i.known != nil:
			i.until = time.Now().Add(metadataRest)
			return i.known, nil
		}
		return m, err
	})
	select {
	case r := <-fetched:
		return r.Val.(*metadata), r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fetchAlone fetches whatever becomes of the caller, because others wait for the result.
func (i *Issuer) fetchAlone(ctx context.Context, e Endpoint) (m *metadata, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), metadataTime)
	defer cancel()
	err = alone("Endpoint.Client", func() (err error) {
		m, err = i.fetch(ctx, e)
		return err
	})
	return m, err
}

// gone notes that the token endpoint was not found where the metadata said.
func (i *Issuer) gone() {
	if i == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if soon := time.Now().Add(metadataRest); soon.Before(i.until) {
		i.until = soon
	}
}

// fetch determines the issuer, if necessary, and reads its metadata.
func (i *Issuer) fetch(ctx context.Context, e Endpoint) (*metadata, error) {
	issuer := i.URL
	if issuer == "" {
		var err error
		if issuer, err = i.ofResource(ctx, e); err != nil {
			return nil, err
		}
	}
	u, err := parseIssuer(issuer)
	if err != nil {
		return nil, err
	}
	for _, at := range places(u) {
		m := new(metadata)
		switch err := e.get(ctx, at, m); {
		case err == errNoMetadata:
		case err != nil:
			return nil, err
		case m.Issuer != issuer:
			return nil, fmt.Errorf("the metadata are of the issuer %s, not of %s", printable(m.Issuer, maxWord), issuer)
		case m.TokenEndpoint == "":
			return nil, errors.New("the metadata have no token_endpoint")
		default:
			return m, nil
		}
	}
	return nil, fmt.Errorf("%s has no metadata", issuer)
}

// ofResource returns the issuer that a protected resource names (RFC 9728 section 3.3).
func (i *Issuer) ofResource(ctx context.Context, e Endpoint) (string, error) {
	at, err := url.Parse(i.Resource)
	if err != nil || at.Host == "" || at.User != nil {
		return "", errors.New("neither Issuer.URL nor Issuer.Resource is an absolute URL")
	}
	var m struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
	}
	if err := e.get(ctx, i.Resource, &m); err != nil {
		return "", err
	}
	switch resource, err := url.Parse(m.Resource); {
	case err != nil || origin.Of(resource) != origin.Of(at):
		return "", fmt.Errorf("the metadata at %s are those of the resource %s", at.Host, printable(m.Resource, maxWord))
	case len(m.Servers) == 0:
		return "", errors.New("the resource's metadata have no authorization_servers")
	}
	return m.Servers[0], nil
}

// parseIssuer reads an issuer identifier (RFC 8414 section 2).
func parseIssuer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the issuer is not an absolute URL without user, query and fragment")
	}
	return u, nil
}

// places returns the URLs where an issuer's metadata may be: before its path (RFC 8414
// section 3.1), and after it as in OpenID Connect.
func places(issuer *url.URL) []string {
	root, path := issuer.Scheme+"://"+issuer.Host, strings.TrimSuffix(issuer.EscapedPath(), "/")
	return slices.Compact([]string{
		root + "/.well-known/oauth-authorization-server" + path,
		root + "/.well-known/openid-configuration" + path,
		root + path + "/.well-known/openid-configuration",
	})
}

var errNoMetadata = errors.New("the resource has no metadata")

// get reads JSON into v. It returns errNoMetadata if the server has nothing there.
func (e Endpoint) get(ctx context.Context, at string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return errors.New("the URL of the metadata is not a URL")
	}
	if err := origin.CheckPrivate(e.client().Transport, req); err != nil && !e.AllowHTTP {
		return fmt.Errorf("%w, and Endpoint.AllowHTTP is not set", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := e.client().Do(req)
	if err != nil {
		return fmt.Errorf("metadata: %w", bare(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		return errNoMetadata
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answered %d for its metadata", req.URL.Host, resp.StatusCode)
	case err != nil:
		return fmt.Errorf("metadata: %w", err)
	case len(body) > maxReply:
		return fmt.Errorf("the metadata have more than %d bytes", maxReply)
	case json.Unmarshal(trim(body), v) != nil:
		return errors.New("the metadata are not a JSON object of the right types")
	}
	return nil
}

// name returns the identifier of e's server, which may not be discovered yet.
func (e Endpoint) name() string {
	if e.Issuer == nil {
		return e.URL
	}
	return cmp.Or(e.Issuer.URL, e.Issuer.Resource)
}

// host returns the host of name, or "" if that is not a URL.
func (e Endpoint) host() string {
	u, err := url.Parse(e.name())
	if err != nil {
		return ""
	}
	return u.Host
}

// Format writes the host of the metadata for every verb. It reads nothing that changes
// concurrently.
func (i *Issuer) Format(s fmt.State, verb rune) {
	fmt.Fprintf(s, "issuer at %q", Endpoint{Issuer: i}.host())
}
