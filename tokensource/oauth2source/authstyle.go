package oauth2source

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// A detector sends token requests as tokensource.Endpoint makes them, or moves the
// client's id and secret: from Basic to the form, or an id without a secret from the
// form to Basic.
type detector struct {
	base http.RoundTripper
	way  atomic.Int32
}

// The ways of a detector.
const (
	unknown  = iota // both are tried
	asMade          // by Endpoint
	otherWay        // moved
)

func detecting(client *http.Client, way int32) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	detected, d := *client, &detector{base: client.Transport}
	d.way.Store(way)
	if d.base == nil {
		d.base = http.DefaultTransport
	}
	detected.Transport = d
	return &detected
}

// WrappedRoundTripper shows the base, which may have a proxy on another machine.
func (d *detector) WrappedRoundTripper() http.RoundTripper { return d.base }

func (d *detector) RoundTrip(req *http.Request) (*http.Response, error) {
	way := d.way.Load()
	if way == asMade || req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return d.base.RoundTrip(req)
	}
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	if way == otherWay {
		return d.base.RoundTrip(moved(req, body))
	}
	first, err := d.try(withBody(req, body), asMade)
	if err != nil || !refused(first) {
		return first, err
	}
	second, err := d.try(moved(req, body), otherWay)
	if err == nil && refused(second) && authenticated(errorCode(first), errorCode(second)) {
		second.Body.Close()
		return first, nil
	}
	first.Body.Close()
	return second, err
}

// try remembers a way that succeeds.
func (d *detector) try(req *http.Request, way int32) (*http.Response, error) {
	resp, err := d.base.RoundTrip(req)
	if err == nil && resp.StatusCode/100 == 2 && errorCode(resp) == "" {
		d.way.Store(way)
	}
	return resp, err
}

// moved returns the request with the client's id and secret in the other place.
func moved(req *http.Request, body []byte) *http.Request {
	form, _ := url.ParseQuery(string(body)) // Endpoint has made it
	id, secret, basic := req.BasicAuth()
	if basic {
		for name, value := range map[string]string{"client_id": id, "client_secret": secret} {
			value, _ = url.QueryUnescape(value)
			form.Set(name, value)
		}
		out := withBody(req, []byte(form.Encode()))
		out.Header.Del("Authorization")
		return out
	}
	id = form.Get("client_id")
	form.Del("client_id")
	out := withBody(req, []byte(form.Encode()))
	out.SetBasicAuth(url.QueryEscape(id), "")
	return out
}

func withBody(req *http.Request, body []byte) *http.Request {
	out := req.Clone(req.Context())
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength = int64(len(body))
	return out
}

// refused reports whether a reply may mean that the client did not authenticate, also
// with invalid_grant, which a server may answer to an unknown client. The server has not
// spent a refresh token that it refuses.
func refused(resp *http.Response) bool {
	switch resp.StatusCode / 100 {
	case 2:
		return errorCode(resp) != ""
	case 4:
		return resp.StatusCode != http.StatusTooManyRequests
	}
	return false
}

// authenticated reports whether the first of two refusals was about something else than
// the client, so that its way was right.
func authenticated(first, second string) bool {
	switch first {
	case "invalid_grant":
		return true
	case "invalid_scope", "invalid_target":
		return second == "invalid_client"
	}
	return false
}

// errorCode reads the error of a reply, and puts the beginning of its body back.
func errorCode(resp *http.Response) string {
	read, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(read), resp.Body), resp.Body}
	var reply struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(read, &reply); reply.Error != "" || strings.HasPrefix(string(bytes.TrimSpace(read)), "{") {
		return reply.Error
	}
	form, _ := url.ParseQuery(string(read))
	return form.Get("error")
}
