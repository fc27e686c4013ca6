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
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
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

func TestARequestThatDPoPSendsAgainHasANewAssertion(t *testing.T) {
	srv := trusting(t)
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	seen := &jtis{base: http.DefaultTransport}
	e := asserted(srv)
	e.Client = &http.Client{Transport: &transport.DPoP{Key: testP256(), Base: seen}}
	source := &tokensource.RefreshToken{Endpoint: e, RefreshToken: srv.RefreshToken()}
	tok, err := source.Token(t.Context(), nil)
	wantSubject(t, srv, tok, err, srv.Username, "")
	if len(seen.seen) != 2 || seen.seen[0] == seen.seen[1] || seen.seen[0] == nil || seen.seen[1] == nil {
		t.Errorf("got the jtis %v, want two, for the request was sent twice", seen.seen)
	}
	if got := srv.Counts(); tok == nil || tok.TokenType != "DPoP" || got.NonceChallenges != 1 || got.ProofReuses != 0 {
		t.Errorf("got %v, counts %+v, want a token of type DPoP after one nonce challenge", tok, got)
	}
}

func TestAGrantThatDPoPSendsAgainHasANewAssertion(t *testing.T) {
	var seen []string
	base := endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		seen = append(seen, req.PostForm.Get("assertion"))
		reply := "HTTP/1.1 200 OK\r\n\r\n" + `{"access_token":"a"}`
		if len(seen) == 1 {
			reply = "HTTP/1.1 400 X\r\nContent-Type: application/json\r\nDPoP-Nonce: n\r\n\r\n" + `{"error":"use_dpop_nonce"}`
		}
		return http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), req)
	})
	e := tokensource.Endpoint{URL: "https://login.example.com", Client: &http.Client{Transport: &transport.DPoP{Key: testP256(), Base: base}}}
	tok, err := (&tokensource.JWTBearer{Endpoint: e, Assertion: &tokensource.SignedJWT{Key: testP256(), Audience: []string{"aud"}}}).Token(t.Context(), nil)
	wantToken(t, tok, err, "a")
	if len(seen) != 2 || seen[0] == seen[1] {
		t.Errorf("got the assertions %q, want two different ones", seen)
	}
}

func TestAProofIsNoticedWhateverSendsIt(t *testing.T) {
	refusing := endpointReply(400, nil, `{"error":"invalid_grant"}`)
	bare := &tokensource.RefreshToken{Endpoint: refusing, RefreshToken: "r"}
	if _, err := bare.Token(t.Context(), nil); !errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("without a proof: got %v, want ErrReauthenticate", err)
	}
	refusing.Client.Transport = &transport.DPoP{Key: testP256(), Base: refusing.Client.Transport}
	proved := &tokensource.RefreshToken{Endpoint: refusing, RefreshToken: "r"}
	if _, err := proved.Token(t.Context(), nil); err == nil || errors.Is(err, tokensource.ErrReauthenticate) {
		t.Errorf("with a proof: got %v, want an error that is not ErrReauthenticate", err)
	}
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

// The length of the body is told before its bytes.
func TestARequestIsNotSentAgainIfTheNextAssertionHasAnotherLength(t *testing.T) {
	srv := trusting(t)
	srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true})
	e, calls := asserted(srv), 0
	e.ClientAssertion = tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
		calls++
		s := assertionFor(srv, srv.ClientID, srv.ClientID)
		s.Claims = map[string]any{"pad": strings.Repeat("x", calls)}
		return s.Token(ctx, nil)
	})
	e.Client = &http.Client{Transport: &transport.DPoP{Key: testP256()}}
	source := &tokensource.ClientCredentials{Endpoint: e}
	tok, err := source.Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 use_dpop_nonce: the proof needs a nonce of this server that is not stale")
	tok, err = source.Token(t.Context(), nil) // with the nonce
	wantSubject(t, srv, tok, err, srv.ClientID, "")
	if calls != 3 || srv.Counts().TokenRequests != 2 {
		t.Errorf("got %d assertions and %d requests, want 3 and 2", calls, srv.Counts().TokenRequests)
	}
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

// dated answers a token request with a status and a Date that is off by skew.
func dated(skew time.Duration, status int, body string) tokensource.Endpoint {
	e := endpointReply(status, nil, body)
	e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
		h := http.Header{"Date": {time.Now().Add(skew).UTC().Format(http.TimeFormat)}}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
	return e
}

func TestAWrongLocalClockIsToldWhenAnAssertionIsRefused(t *testing.T) {
	for skew, want := range map[time.Duration]string{
		time.Hour:         ": the local clock is 1h0m0s behind the server's",
		-90 * time.Second: ": the local clock is 1m30s ahead of the server's",
		11 * time.Second:  ": the local clock is 11s behind the server's",
		10 * time.Second:  "",
		-10 * time.Second: "",
		0:                 "",
	} {
		for _, reply := range []string{"400 invalid_client", "401 invalid_grant", "503 unavailable"} {
			synctest.Test(t, func(t *testing.T) {
				var status int
				var code string
				fmt.Sscan(reply, &status, &code)
				e := dated(skew, status, fmt.Sprintf(`{"error":%q}`, code))
				jwtBearer := &tokensource.JWTBearer{Endpoint: e, Assertion: &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}}
				e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
				for _, source := range []tokensource.Source{jwtBearer, &tokensource.RefreshToken{Endpoint: e, RefreshToken: "rt"}} {
					want := "tokensource: the token endpoint answered " + reply + want
					if _, spends := source.(*tokensource.RefreshToken); spends && code == "invalid_grant" && skew.Abs() <= 10*time.Second {
						want = tokensource.ErrReauthenticate.Error() + ": " + want
					}
					tok, err := source.Token(t.Context(), nil)
					wantEndpointError(t, tok, err, want)
				}
			})
		}
	}
}

func TestTheClockIsNotBlamedWithoutAnAssertionOrADate(t *testing.T) {
	e := dated(time.Hour, 400, `{"error":"invalid_client"}`)
	tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_client")

	e = endpointReply(400, http.Header{"Date": {"yesterday"}}, `{"error":"invalid_client"}`)
	e.ClientAssertion = &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}
	tok, err = (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
	wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_client")
}

func TestTheClockOfARealServerIsCompared(t *testing.T) {
	srv, _ := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(400)
		io.WriteString(w, `{"error":"invalid_client"}`)
	})
	e := tokensource.Endpoint{URL: srv.URL, ClientAssertion: &tokensource.SignedJWT{Key: testEd(), Audience: []string{"aud"}}}
	_, err := e.Exchange(t.Context(), anyGrant)
	if err == nil || !strings.Contains(err.Error(), "400 invalid_client: the local clock is 1h0m") || !strings.HasSuffix(err.Error(), "s ahead of the server's") {
		t.Errorf("got %v, want it to say that the local clock is an hour ahead", err)
	}
}

// formOf is what a source sends to its endpoint, which must be this one.
func formOf(t *testing.T, source tokensource.Source) (form url.Values) {
	t.Helper()
	endpointOf(source).Client = &http.Client{Transport: endpointFunc(func(req *http.Request) (*http.Response, error) {
		req.ParseForm()
		form = req.PostForm
		return nil, errors.New("enough")
	})}
	endpointOf(source).URL = "https://login.example.com/token"
	source.Token(t.Context(), nil)
	return form
}

func TestAGrantByAssertionSendsWhatItsFieldsSay(t *testing.T) {
	got := formOf(t, &tokensource.JWTBearer{Assertion: tokensource.Static(&Token{AccessToken: "the-jwt"}), Scopes: []string{"a", "b"}})
	want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"the-jwt"}, "scope": {"a b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnExchangeSendsWhatItsFieldsSay(t *testing.T) {
	user, service := tokensource.Static(&Token{AccessToken: "the-user"}), tokensource.Static(&Token{AccessToken: "the-service"})
	const grant = "urn:ietf:params:oauth:grant-type:token-exchange"
	least := formOf(t, &tokensource.TokenExchange{Subject: user})
	if want := (url.Values{"grant_type": {grant}, "subject_token": {"the-user"}, "subject_token_type": {accessTokenURI}}); !reflect.DeepEqual(least, want) {
		t.Errorf("got %v, want %v", least, want)
	}
	most := formOf(t, &tokensource.TokenExchange{
		Endpoint: tokensource.Endpoint{ClientID: "app", Params: url.Values{"audience": {"x", "y"}}},
		Subject:  user, SubjectType: jwtURI, Actor: service, ActorType: "urn:a", RequestedType: "urn:b", Scopes: []string{"a", "b"},
	})
	want := url.Values{
		"grant_type": {grant}, "client_id": {"app"}, "audience": {"x", "y"}, "scope": {"a b"}, "requested_token_type": {"urn:b"},
		"subject_token": {"the-user"}, "subject_token_type": {jwtURI}, "actor_token": {"the-service"}, "actor_token_type": {"urn:a"},
	}
	if !reflect.DeepEqual(most, want) {
		t.Errorf("got %v, want %v", most, want)
	}
	if got := formOf(t, &tokensource.TokenExchange{Subject: user, Actor: service})["actor_token_type"]; !reflect.DeepEqual(got, []string{accessTokenURI}) {
		t.Errorf("got actor_token_type %q, want an access token", got)
	}
}

func TestARefusedAssertionIsToldInTheServersWordsAndAsksForNoLogin(t *testing.T) {
	srv := trusting(t)
	for why, s := range map[string]*tokensource.SignedJWT{
		"aud is not this server": {Key: testP256(), Issuer: "idp", Subject: "alice", Audience: []string{"https://elsewhere.example"}},
		"no iss":                 assertionFor(srv, "", "alice"),
		"no sub":                 assertionFor(srv, "idp", ""),
		"no trusted key has made the signature with this alg": {Key: testEd(), Issuer: "idp", Subject: "alice", Audience: []string{srv.URL}},
	} {
		source := &tokensource.JWTBearer{Endpoint: asserted(srv), Assertion: s}
		tok, err := source.Token(t.Context(), nil)
		wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_grant: assertion: "+why)
		if errors.Is(err, tokensource.ErrReauthenticate) {
			t.Errorf("%s: got ErrReauthenticate, want a failure like others", why)
		}
	}
}

func TestARefusedSubjectIsToldInTheServersWords(t *testing.T) {
	srv := trusting(t)
	revoked := must(byAssertion(srv, "alice").Token(t.Context(), nil))
	srv.RevokeAccess()
	for why, token := range map[string]*Token{
		"tokentest: the token is not one of this server": {AccessToken: "a-strange-token"},
		"tokentest: the token was revoked":               {AccessToken: revoked.AccessToken},
	} {
		source := &tokensource.TokenExchange{Endpoint: asserted(srv), Subject: tokensource.Static(token)}
		tok, err := source.Token(t.Context(), nil)
		wantEndpointError(t, tok, err, "tokensource: the token endpoint answered 400 invalid_request: subject_token: "+why)
	}
}

// onBehalf exchanges the token of the user in the context, under a key for each user.
func onBehalf(srv *tokentest.Server) *tokensource.Keyed[string] {
	return byTenant(func(string) tokensource.Source {
		return &tokensource.TokenExchange{Endpoint: asserted(srv), Actor: byAssertion(srv, "robot"), Subject: tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
			user, err := tenantOf(ctx)
			if err != nil {
				return nil, err
			}
			return byAssertion(srv, user).Token(ctx, nil)
		})}
	})
}

func TestTwoUsersNeverGetEachOthersToken(t *testing.T) {
	srv := trusting(t)
	k := onBehalf(srv)
	for _, err := range all(40, func(i int) error {
		user := []string{"alice", "bob"}[i%2]
		var tok *Token
		for range 5 {
			next, err := k.Token(tenant(t.Context(), user), tok)
			if err != nil {
				return err
			}
			if subject, actor, err := srv.Subject(next.AccessToken); err != nil || subject != user || actor != "robot" {
				return fmt.Errorf("%s got a token of %q by %q, %v", user, subject, actor, err)
			}
			tok = next
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestATokenThatIsNoAccessTokenGoesNowhereButIntoAnAssertion(t *testing.T) {
	for _, kind := range []string{"N_A", "n_a"} {
		source := &tokensource.TokenExchange{Subject: tokensource.Static(&Token{AccessToken: "at"}),
			Endpoint: endpointReply(200, nil, fmt.Sprintf(`{"access_token":"for-another-server","issued_token_type":%q,"token_type":%q}`, jwtURI, kind))}
		tok, err := source.Token(t.Context(), nil)
		wantToken(t, tok, err, "for-another-server")
		if value, err := tok.Authorization(); value != "" || err == nil {
			t.Errorf("got the header %q, %v, want an error", value, err)
		}
		api, calls := endpointServer(t, func(http.ResponseWriter, *http.Request) {})
		_, err = (&http.Client{Transport: &transport.Auth{Source: source}}).Get(api.URL)
		if err == nil || !strings.Contains(err.Error(), "N_A is not an access token") || calls.Load() != 0 {
			t.Errorf("got %v after %d requests to the API, want an error and none", err, calls.Load())
		}
		form := formOf(t, &tokensource.JWTBearer{Assertion: source})
		if got := form.Get("assertion"); got != "for-another-server" {
			t.Errorf("got the assertion %q, want the exchanged token", got)
		}
	}
}
