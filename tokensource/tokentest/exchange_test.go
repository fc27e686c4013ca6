package tokentest_test

import (
	"testing"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

const (
	tokenExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessTokenType = "urn:ietf:params:oauth:token-type:access_token"
	jwtType         = "urn:ietf:params:oauth:token-type:jwt"
)

// exchange does the grant with the client's secret.
func exchange(t *testing.T, srv *tokentest.Server, pairs ...string) answer {
	t.Helper()
	return post(t, srv, append(pairs, "grant_type", tokenExchange,
		"client_id", srv.ClientID, "client_secret", srv.ClientSecret)...)
}

func credentialsToken(t *testing.T, srv *tokentest.Server) string {
	t.Helper()
	return post(t, srv, "grant_type", "client_credentials",
		"client_id", srv.ClientID, "client_secret", srv.ClientSecret).Access
}

func TestAnExchangedTokenIsTheSubjectsAndNamesTheActor(t *testing.T) {
	srv := tokentest.NewServer(t)
	user, service := login(t, srv, srv.Password).Access, credentialsToken(t, srv)

	alone := exchange(t, srv, "subject_token", user, "subject_token_type", jwtType)
	wantStatus(t, "alone", alone, 200, "")
	wantSubject(t, srv, alone, srv.Username, "")

	acted := exchange(t, srv, "subject_token", user, "subject_token_type", accessTokenType,
		"actor_token", service, "actor_token_type", jwtType)
	wantSubject(t, srv, acted, srv.Username, srv.ClientID)
	wantStatus(t, "the API", get(t, srv.APIURL(), acted.Access), 200, "")
	if acted.Issued != accessTokenType || acted.Type != "Bearer" || acted.Lifetime != 3600 || acted.Refresh != "" {
		t.Errorf("got %+v; want an access token of type Bearer for an hour, and no refresh token", acted)
	}
}

func TestTheTypeOfAnExchangedTokenIsTheOneRequested(t *testing.T) {
	srv := tokentest.NewServer(t)
	form := []string{"subject_token", login(t, srv, srv.Password).Access, "subject_token_type", jwtType}
	for _, requested := range []string{accessTokenType, jwtType} {
		if got := exchange(t, srv, append(form, "requested_token_type", requested)...); got.Issued != requested {
			t.Errorf("got status %d, issued_token_type %q; want %q", got.Status, got.Issued, requested)
		}
	}
	got := exchange(t, srv, append(form, "requested_token_type", "urn:ietf:params:oauth:token-type:saml2")...)
	wantRefused(t, "another", got, 400, "invalid_request", "requested_token_type")
}

func TestAnExchangeNeedsGoodTokensWithTheirTypes(t *testing.T) {
	srv := tokentest.NewServer(t)
	dead := login(t, srv, srv.Password).Access
	srv.RevokeAccess()
	good := login(t, srv, srv.Password).Access
	subject := []string{"subject_token", good, "subject_token_type", jwtType}
	for why, form := range map[string][]string{
		"no subject_token":      {"subject_token_type", jwtType},
		"subject_token_type":    {"subject_token", good},
		"not one of this":       {"subject_token", "x", "subject_token_type", jwtType},
		"the token was revoked": {"subject_token", dead, "subject_token_type", jwtType},
		"no actor_token":        append(subject, "actor_token_type", jwtType),
		"actor_token_type":      append(subject, "actor_token", good),
		"actor_token: ":         append(subject, "actor_token", dead, "actor_token_type", jwtType),
	} {
		wantRefused(t, why, exchange(t, srv, form...), 400, "invalid_request", why)
	}
}

func TestAnExchangeNeedsAClientThatAuthenticates(t *testing.T) {
	srv := tokentest.NewServer(t)
	form := []string{"grant_type", tokenExchange,
		"subject_token", login(t, srv, srv.Password).Access, "subject_token_type", jwtType}
	wantStatus(t, "public", post(t, srv, append(form, "client_id", srv.ClientID)...), 400, "unauthorized_client")
	wantStatus(t, "none", post(t, srv, form...), 401, "invalid_client")
}

func TestAnExchangeMayNameSeveralResourcesAndAudiences(t *testing.T) {
	srv := tokentest.NewServer(t)
	got := exchange(t, srv, "subject_token", login(t, srv, srv.Password).Access, "subject_token_type", jwtType,
		"audience", "a", "audience", "b", "resource", "https://a.example.com", "resource", "https://b.example.com")
	wantStatus(t, "exchange", got, 200, "")
}

func TestTheSubjectOfADeadTokenIsNotTold(t *testing.T) {
	srv := tokentest.NewServer(t)
	dead := login(t, srv, srv.Password).Access
	srv.RevokeAccess()
	subject, _, err := srv.Subject(dead)
	if want := srv.Check(dead); subject != "" || err == nil || err != want {
		t.Errorf("got subject %q, error %v; want none, and error %v", subject, err, want)
	}
}
