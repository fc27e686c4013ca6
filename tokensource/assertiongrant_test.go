package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

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
