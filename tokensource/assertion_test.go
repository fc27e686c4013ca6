package tokensource_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

const (
	accessTokenURI = "urn:ietf:params:oauth:token-type:access_token"
	jwtURI         = "urn:ietf:params:oauth:token-type:jwt"
)

// trusting returns a server that trusts the key of the tests.
func trusting(t *testing.T) *tokentest.Server {
	t.Helper()
	srv := tokentest.NewServer(t)
	srv.TrustKey(testP256().Public())
	return srv
}

// assertionFor is what srv wants of its client, or of an issuer for subject.
func assertionFor(srv *tokentest.Server, issuer, subject string) *tokensource.SignedJWT {
	return &tokensource.SignedJWT{Key: testP256(), Issuer: issuer, Subject: subject, Audience: []string{srv.TokenURL()}}
}

// asserted is srv's token endpoint for a client that authenticates by its key.
func asserted(srv *tokentest.Server) tokensource.Endpoint {
	return tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientAssertion: assertionFor(srv, srv.ClientID, srv.ClientID)}
}

// byAssertion gives srv's tokens of a subject.
func byAssertion(srv *tokentest.Server, subject string) *tokensource.JWTBearer {
	return &tokensource.JWTBearer{Endpoint: tokensource.Endpoint{URL: srv.TokenURL()}, Assertion: assertionFor(srv, "https://idp.example.com", subject)}
}

// grants are all of them, by a client that authenticates with e.
func grants(srv *tokentest.Server, e tokensource.Endpoint) map[string]tokensource.Source {
	return map[string]tokensource.Source{
		"client_credentials": &tokensource.ClientCredentials{Endpoint: e},
		"refresh_token":      &tokensource.RefreshToken{Endpoint: e, RefreshToken: srv.RefreshToken()},
		"jwt-bearer":         &tokensource.JWTBearer{Endpoint: e, Assertion: assertionFor(srv, "https://idp.example.com", "alice")},
		"token-exchange":     &tokensource.TokenExchange{Endpoint: e, Subject: byAssertion(srv, "bob"), Actor: byAssertion(srv, "robot")},
	}
}

// wantSubject checks whose token it is, and who acts.
func wantSubject(t *testing.T, srv *tokentest.Server, tok *Token, err error, subject, actor string) {
	t.Helper()
	if err != nil {
		t.Errorf("got %v, want a token of %q", err, subject)
		return
	}
	gotSubject, gotActor, err := srv.Subject(tok.AccessToken)
	if err != nil || gotSubject != subject || gotActor != actor {
		t.Errorf("got a token of %q by %q, %v, want %q by %q", gotSubject, gotActor, err, subject, actor)
	}
}

func TestAClientAssertionServesEveryGrant(t *testing.T) {
	srv := trusting(t)
	want := map[string][2]string{
		"client_credentials": {srv.ClientID, ""}, "refresh_token": {srv.Username, ""}, "jwt-bearer": {"alice", ""}, "token-exchange": {"bob", "robot"},
	}
	for grant, source := range grants(srv, asserted(srv)) {
		tok, err := source.Token(t.Context(), nil)
		wantSubject(t, srv, tok, err, want[grant][0], want[grant][1])
	}
}

func TestEachTokenRequestHasAnAssertionOfItsOwn(t *testing.T) {
	srv := trusting(t)
	for grant, source := range grants(srv, asserted(srv)) {
		c := &tokensource.Cache{Source: source}
		var tok *Token
		for i := range 4 { // the server refuses what it has seen
			next, err := c.Token(t.Context(), tok)
			if err != nil {
				t.Fatalf("%s, request %d: %v", grant, i+1, err)
			}
			tok = next
		}
	}
}

// jtis notes the jti of each client assertion that passes by.
type jtis struct {
	base http.RoundTripper
	seen []any
}

func (j *jtis) RoundTrip(req *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(req.Body)
	form, _ := url.ParseQuery(string(body))
	claims := jwt.MapClaims{}
	jwt.NewParser().ParseUnverified(form.Get("client_assertion"), claims)
	j.seen = append(j.seen, claims["jti"])
	next := req.Clone(req.Context())
	next.Body = io.NopCloser(strings.NewReader(string(body)))
	return j.base.RoundTrip(next)
}

// A layer that hedges asks for many bodies at once.
func TestATokenRequestMayBeSentFromManyGoroutines(t *testing.T) {
	base := endpointFunc(func(req *http.Request) (*http.Response, error) {
		for _, err := range all(4, func(int) error { _, err := req.GetBody(); return err }) {
			if err != nil {
				t.Error(err)
			}
		}
		return http.ReadResponse(bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"a\"}")), req)
	})
	e := tokensource.Endpoint{URL: "https://login.example.com", Client: &http.Client{Transport: base}}
	e.ClientAssertion = &tokensource.SignedJWT{Key: testP256(), Audience: []string{"aud"}}
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantToken(t, tok, err, "a")
}

func TestASecretBesideAClientAssertionIsAnError(t *testing.T) {
	srv := trusting(t)
	for _, post := range []bool{false, true} {
		e := asserted(srv)
		e.ClientSecret, e.ClientSecretPost = srv.ClientSecret, post
		_, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
		if want := "tokensource: Endpoint.ClientAssertion and Endpoint.ClientSecret exclude each other"; err == nil || err.Error() != want {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
	if n := srv.Counts().TokenRequests; n != 0 {
		t.Errorf("got %d token requests, want none", n)
	}
}

// borrowing are sources that get their assertion from s, by the field that it is in.
func borrowing(srv *tokentest.Server, s tokensource.Source) map[string]tokensource.Source {
	e := tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret}
	client := tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientAssertion: s}
	return map[string]tokensource.Source{
		"Endpoint.ClientAssertion": &tokensource.RefreshToken{Endpoint: client, RefreshToken: srv.RefreshToken()},
		"JWTBearer.Assertion":      &tokensource.JWTBearer{Endpoint: e, Assertion: s},
		"TokenExchange.Subject":    &tokensource.TokenExchange{Endpoint: e, Subject: s},
		"TokenExchange.Actor":      &tokensource.TokenExchange{Endpoint: e, Subject: tokensource.Static(&Token{AccessToken: "at"}), Actor: s},
	}
}

func TestAnAssertionThatDoesNotComeIsToldAndNothingIsSent(t *testing.T) {
	srv := trusting(t)
	for want, s := range map[string]tokensource.Source{
		"the KMS is away":                            failing(errors.New("the KMS is away")),
		"tokensource: there is no token":             tokensource.Static(nil),
		"tokensource: access_token is empty":         tokensource.Static(&Token{RefreshToken: "rt"}),
		"it has expired":                             tokensource.Static(&Token{AccessToken: "at", Expiry: time.Now()}),
		"context canceled":                           failing(context.Canceled),
		"tokensource: SignedJWT.Key: the key is nil": &tokensource.SignedJWT{Audience: []string{"aud"}},
		"tokensource: access_token has the byte 0x20, which no header may carry": tokensource.Static(&Token{AccessToken: "a b"}),
	} {
		for field, source := range borrowing(srv, s) {
			tok, err := source.Token(t.Context(), nil)
			if want := "tokensource: " + field + ": " + want; tok != nil || err == nil || err.Error() != want {
				t.Errorf("got %v, %v\nwant the error: %s", tok, err, want)
			}
		}
	}
	if n := srv.Counts().TokenRequests; n != 0 {
		t.Errorf("got %d token requests, want none", n)
	}
}

func TestAnAssertionWithoutAudienceIsAnErrorThatNamesTheField(t *testing.T) {
	s := &tokensource.SignedJWT{Key: testP256(), Issuer: "a", Subject: "a"}
	srv := trusting(t)
	for field, source := range borrowing(srv, s) {
		if strings.HasPrefix(field, "TokenExchange.") {
			continue // a subject token need not be an assertion
		}
		_, err := source.Token(t.Context(), nil)
		if want := "tokensource: " + field + ": SignedJWT.Audience is empty, and an assertion needs one"; err == nil || err.Error() != want {
			t.Errorf("got %v, want: %s", err, want)
		}
	}
}

func TestAMissingAssertionIsAnError(t *testing.T) {
	for want, source := range map[string]tokensource.Source{
		"tokensource: JWTBearer.Assertion is nil":   &tokensource.JWTBearer{},
		"tokensource: TokenExchange.Subject is nil": &tokensource.TokenExchange{Actor: hushSource},
	} {
		if tok, err := source.Token(t.Context(), nil); tok != nil || err == nil || err.Error() != want {
			t.Errorf("got %v, %v, want: %s", tok, err, want)
		}
	}
}

func TestTheErrorOfAnAssertionIsWrapped(t *testing.T) {
	srv := trusting(t)
	refusal := &tokensource.EndpointError{StatusCode: 503, RetryAfter: time.Minute}
	for field, source := range borrowing(srv, failing(refusal)) {
		_, err := source.Token(t.Context(), nil)
		if got, _ := errors.AsType[*tokensource.EndpointError](err); got != refusal {
			t.Errorf("%s: got %v, want %v wrapped", field, err, refusal)
		}
	}
}

// wantClientRefused checks the server's refusal of a client assertion, which the error must not quote.
func wantClientRefused(t *testing.T, what string, e tokensource.Endpoint, text, why string) {
	t.Helper()
	e.ClientAssertion = tokensource.Static(&Token{AccessToken: text})
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	refusal := wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 401 invalid_client: client_assertion: "+why)
	if refusal.Code != "invalid_client" || strings.Contains(fmt.Sprintf("%+v", *refusal), text) {
		t.Errorf("%s: got %+v, want invalid_client without the assertion", what, *refusal)
	}
}

func TestARefusedClientAssertionIsToldInTheServersWords(t *testing.T) {
	srv := trusting(t)
	good := jwt.MapClaims{"iss": srv.ClientID, "sub": srv.ClientID, "aud": srv.URL, "jti": "1", "exp": time.Now().Add(time.Minute).Unix()}
	for why, change := range map[string]jwt.MapClaims{
		"aud is not this server": {"aud": "https://login.example.com"},
		"iss is not the client":  {"iss": "another"},
		"sub is not the client":  {"sub": "another"},
		"exp is over":            {"exp": time.Now().Add(-time.Minute).Unix()},
		"iat is in the future":   {"iat": time.Now().Add(time.Hour).Unix()},
		"no jti":                 {"jti": ""},
	} {
		claims := jwt.MapClaims{}
		for _, from := range []jwt.MapClaims{good, change} {
			for name, value := range from {
				claims[name] = value
			}
		}
		wantClientRefused(t, why, asserted(srv), must(jwt.NewWithClaims(jwt.SigningMethodES256, claims).SignedString(testP256())), why)
	}
	stranger := &tokensource.SignedJWT{Key: testEd(), Issuer: srv.ClientID, Subject: srv.ClientID, Audience: []string{srv.URL}}
	tok := must(stranger.Token(t.Context(), nil))
	wantClientRefused(t, "an unknown key", asserted(srv), tok.AccessToken, "no trusted key has made the signature with this alg")
	wantClientRefused(t, "no JWT", asserted(srv), "opaque", "not a JWT")
}

func TestAServerThatRepeatsAssertionsIsNotQuoted(t *testing.T) {
	for field, source := range borrowing(trusting(t), tokensource.Static(&Token{AccessToken: hush})) {
		e := endpointOf(source)
		e.Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
			req.ParseForm()
			body, _ := json.Marshal(map[string]string{"error": "invalid_client", "error_description": fmt.Sprint("bad: ", req.PostForm)})
			return &http.Response{StatusCode: 400, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(body)))}, nil
		})}
		_, err := source.Token(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "[redacted]") || secrets.Shows(err.Error()) {
			t.Errorf("%s: got %v, want the refusal without the assertion", field, err)
		}
	}
}

func endpointOf(source tokensource.Source) *tokensource.Endpoint {
	switch s := source.(type) {
	case *tokensource.RefreshToken:
		return &s.Endpoint
	case *tokensource.JWTBearer:
		return &s.Endpoint
	case *tokensource.TokenExchange:
		return &s.Endpoint
	}
	panic(fmt.Sprintf("no endpoint in a %T", source))
}

func TestALoginThatAnAssertionLacksIsToldAndWhereItIsLacking(t *testing.T) {
	srv := trusting(t)
	dead := endpointReply(400, nil, `{"error":"invalid_grant"}`)
	for what, lender := range map[string]tokensource.Source{
		"a refusal":       &tokensource.ClientCredentials{Endpoint: dead},
		"one by a JWT":    &tokensource.JWTBearer{Endpoint: dead, Assertion: assertionFor(srv, "a", "b")},
		"a dead login":    &tokensource.RefreshToken{Endpoint: dead, RefreshToken: "rt"},
		"a missing login": &tokensource.Cache{Source: &tokensource.RefreshToken{Endpoint: dead}},
		"a Func":          failing(fmt.Errorf("go away: %w", tokensource.ErrReauthenticate)),
	} {
		for field, source := range borrowing(srv, lender) {
			_, err := source.Token(t.Context(), nil)
			needsLogin := what != "a refusal" && what != "one by a JWT"
			if err == nil || errors.Is(err, tokensource.ErrReauthenticate) != needsLogin || !strings.HasPrefix(err.Error(), "tokensource: "+field+": ") {
				t.Errorf("%s: got %v, want an error of %s that is ErrReauthenticate: %t", what, err, field, needsLogin)
			}
		}
	}
}

func TestACacheRecoversWhenTheSubjectHasLoggedInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		user := &tokensource.Cache{Source: &tokensource.RefreshToken{}}
		c := &tokensource.Cache{Source: &tokensource.TokenExchange{Endpoint: endpointReply(200, nil, `{"access_token":"for-the-api"}`), Subject: user}}
		if _, err := c.Token(t.Context(), nil); err == nil {
			t.Fatal("got a token, want an error: nobody has logged in")
		}
		user.Set(t.Context(), &Token{AccessToken: "of-the-user"})
		time.Sleep(time.Second)
		tok, err := c.Token(t.Context(), nil)
		wantToken(t, tok, err, "for-the-api")
	})
}

func TestALoginThatAnAssertionLacksLeavesTheStoredRefreshTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoint := endpointReply(200, nil, `{"access_token":"next"}`)
		lender := &tokensource.Cache{Source: &tokensource.RefreshToken{}}
		endpoint.ClientAssertion = lender
		p := newProcess(new(storetest.Memory), &tokensource.RefreshToken{Endpoint: endpoint})
		p.Set(t.Context(), &Token{RefreshToken: "good"})
		if _, err := p.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("got %v, want ErrReauthenticate", err)
		}
		lender.Set(t.Context(), &Token{AccessToken: "assertion"})
		time.Sleep(time.Second)
		tok, err := p.Token(t.Context(), nil)
		wantToken(t, tok, err, "next")
	})
}
