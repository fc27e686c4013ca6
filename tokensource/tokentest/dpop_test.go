package tokentest_test

import (
	"crypto/elliptic"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// bound returns a server, a prover, and tokens bound to its key.
func bound(t *testing.T) (*tokentest.Server, prover, answer) {
	t.Helper()
	srv, p := tokentest.NewServer(t), newProver(t)
	return srv, p, refreshDPoP(t, srv, srv.RefreshToken(), p.forToken(t, srv, ""))
}

func TestATokenIsBoundIfTheRequestHasAProof(t *testing.T) {
	srv := tokentest.NewServer(t)
	for name, p := range map[string]prover{"ES256": newProver(t), "EdDSA": newEdProver()} {
		got := refreshDPoP(t, srv, srv.RefreshToken(), p.forToken(t, srv, ""))
		if got.Status != 200 || got.Type != "DPoP" {
			t.Errorf("%s: got status %d, token_type %q; want 200, DPoP", name, got.Status, got.Type)
		}
		wantGood(t, srv, name, got.Access, true)
		for _, api := range []string{srv.APIURL(), srv.LegacyURL()} {
			wantStatus(t, name, p.call(t, api, got.Access, ""), 200, "")
		}
	}
	got := refresh(t, srv, srv.RefreshToken())
	if got.Type != "Bearer" {
		t.Errorf("got token_type %q without a proof; want Bearer", got.Type)
	}
	wantStatus(t, "Bearer", get(t, srv.APIURL(), got.Access), 200, "")
}

func TestEveryGrantBindsItsToken(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	key := ecKey(t, elliptic.P256())
	srv.TrustKey(key.Public())
	user := login(t, srv, srv.Password).Access
	for _, grant := range [][]string{
		{"grant_type", "client_credentials"},
		{"grant_type", "refresh_token", "refresh_token", srv.RefreshToken()},
		{"grant_type", jwtBearer, "assertion", signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))},
		{"grant_type", tokenExchange, "subject_token", user, "subject_token_type", accessTokenType},
	} {
		form := append(grant, "client_id", srv.ClientID, "client_secret", srv.ClientSecret)
		got := postDPoP(t, srv, p.forToken(t, srv, ""), form...)
		if got.Status != 200 || got.Type != "DPoP" {
			t.Errorf("%s: got status %d, token_type %q; want 200, DPoP", grant[1], got.Status, got.Type)
		}
		wantStatus(t, grant[1], p.call(t, srv.APIURL(), got.Access, ""), 200, "")
	}
}

func TestABoundTokenNeedsAProofOfItsKeyForIt(t *testing.T) {
	srv, p, tokens := bound(t)
	api, access := srv.APIURL(), tokens.Access
	wantChallenge(t, "as Bearer", get(t, api, access), "invalid_token", "not a Bearer token")
	wantChallenge(t, "no proof", getDPoP(t, api, access, ""), "invalid_dpop_proof", "one DPoP header")
	wantChallenge(t, "another key", newProver(t).call(t, api, access, ""), "invalid_token", "key of the proof")
	for what, ath := range map[string]any{"no ath": nil, "ath of another": athOf("another")} {
		proof := p.proof(t, "GET", api, jwt.MapClaims{"ath": ath})
		wantChallenge(t, what, getDPoP(t, api, access, proof), "invalid_dpop_proof", "ath")
	}
	if got := srv.Counts(); got.APIRequests != 5 || got.Refused != 5 {
		t.Errorf("got %+v; want 5 API requests, all refused", got)
	}
}

func TestABearerTokenIsNotGoodWithAProof(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	got := p.call(t, srv.APIURL(), login(t, srv, srv.Password).Access, "")
	wantChallenge(t, "Bearer token as DPoP", got, "invalid_token", "not bound")
}

func TestADeadBoundTokenIsInvalid(t *testing.T) {
	srv, p, tokens := bound(t)
	srv.RevokeAccess()
	wantChallenge(t, "revoked", p.call(t, srv.APIURL(), tokens.Access, ""), "invalid_token", "revoked")
	wantStatus(t, "with ProtectForbidden", p.call(t, srv.LegacyURL(), tokens.Access, ""), 403, "")
	none := getDPoP(t, srv.APIURL(), "", "")
	if got, want := none.Header.Get("WWW-Authenticate"), `Bearer realm="tokentest"`; got != want {
		t.Errorf("got challenge %q without a token; want %q", got, want)
	}
}

func TestARefreshTokenOfAPublicClientIsBoundToItsFirstKey(t *testing.T) {
	srv, p, tokens := bound(t)
	wantRefused(t, "another key", refreshDPoP(t, srv, tokens.Refresh, newProver(t).forToken(t, srv, "")),
		400, "invalid_grant", "another key")
	wantRefused(t, "no proof", refresh(t, srv, tokens.Refresh), 400, "invalid_grant", "another key")
	if got := refreshJSON(t, srv, tokens.Refresh).Status; got != 403 {
		t.Errorf("got status %d at RefreshURL; want 403", got)
	}
	wantStatus(t, "its key", refreshDPoP(t, srv, tokens.Refresh, p.forToken(t, srv, "")), 200, "")
}

func TestARefreshTokenIsNotBoundForAClientWithASecret(t *testing.T) {
	srv := tokentest.NewServer(t)
	token := srv.RefreshToken()
	for range 2 {
		got := postDPoP(t, srv, newProver(t).forToken(t, srv, ""), "grant_type", "refresh_token",
			"refresh_token", token, "client_id", srv.ClientID, "client_secret", srv.ClientSecret)
		wantStatus(t, "a new key each time", got, 200, "")
		token = got.Refresh
	}
}

func TestAProofMayBeRequired(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	bearer := refresh(t, srv, srv.RefreshToken())
	srv.SetDPoP(tokentest.DPoP{Required: true})
	wantRefused(t, "without", refresh(t, srv, bearer.Refresh), 400, "invalid_dpop_proof", "one DPoP header")
	wantStatus(t, "with", refreshDPoP(t, srv, bearer.Refresh, p.forToken(t, srv, "")), 200, "")
	wantStatus(t, "the API", get(t, srv.APIURL(), bearer.Access), 200, "")
	srv.SetDPoP(tokentest.DPoP{})
	wantStatus(t, "no longer", refresh(t, srv, srv.RefreshToken()), 200, "")
}

func TestTheTokenEndpointDemandsItsNonce(t *testing.T) {
	srv, p := tokentest.NewServer(t), newProver(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	token := srv.RefreshToken()
	for _, wrong := range []string{"", "x", "x.y"} {
		refused := refreshDPoP(t, srv, token, p.forToken(t, srv, wrong))
		wantStatus(t, "nonce "+wrong, refused, 400, "use_dpop_nonce")
		if refused.Header.Get("DPoP-Nonce") == "" {
			t.Errorf("got no DPoP-Nonce for nonce %q; want one", wrong)
		}
	}
	nonce := refreshDPoP(t, srv, token, p.forToken(t, srv, "")).Header.Get("DPoP-Nonce")
	good := refreshDPoP(t, srv, token, p.forToken(t, srv, nonce))
	wantStatus(t, "with the nonce", good, 200, "")
	if next := good.Header.Get("DPoP-Nonce"); next == "" || next == nonce {
		t.Errorf("got DPoP-Nonce %q with 200; want another than %q", next, nonce)
	}
	wantStatus(t, "an older nonce", refreshDPoP(t, srv, good.Refresh, p.forToken(t, srv, nonce)), 200, "")
	if got := srv.Counts(); got.NonceChallenges != 4 || got.Reuses != 0 || got.ProofReuses != 0 {
		t.Errorf("got %+v; want 4 nonce challenges, no reuse", got)
	}
}

func TestTheAPIDemandsANonceOfItsOwn(t *testing.T) {
	srv, p, tokens := bound(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	refused := refreshDPoP(t, srv, tokens.Refresh, p.forToken(t, srv, ""))
	foreign := refused.Header.Get("DPoP-Nonce")
	wantChallenge(t, "none", p.call(t, srv.APIURL(), tokens.Access, ""), "use_dpop_nonce", "")
	got := p.call(t, srv.APIURL(), tokens.Access, foreign)
	wantChallenge(t, "that of TokenURL", got, "use_dpop_nonce", "")
	nonce := got.Header.Get("DPoP-Nonce")
	good := p.call(t, srv.APIURL(), tokens.Access, nonce)
	wantStatus(t, "its own", good, 200, "")
	if next := good.Header.Get("DPoP-Nonce"); next == "" || next == nonce {
		t.Errorf("got DPoP-Nonce %q with 200; want another than %q", next, nonce)
	}
	got = refreshDPoP(t, srv, tokens.Refresh, p.forToken(t, srv, nonce))
	wantStatus(t, "that of the API at TokenURL", got, 400, "use_dpop_nonce")
}

func TestProtectForbiddenGivesANonceWithoutAChallenge(t *testing.T) {
	srv, p, tokens := bound(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	got := p.call(t, srv.LegacyURL(), tokens.Access, "")
	nonce, challenge := got.Header.Get("DPoP-Nonce"), got.Header.Get("WWW-Authenticate")
	if got.Status != 403 || nonce == "" || challenge != "" {
		t.Errorf("got status %d, nonce %q, challenge %q; want 403, a nonce, none", got.Status, nonce, challenge)
	}
	wantStatus(t, "with the nonce", p.call(t, srv.LegacyURL(), tokens.Access, nonce), 200, "")
}

func TestATokenThatDiesWithItsNonceIsMetInTwoSteps(t *testing.T) {
	srv, p, tokens := bound(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	nonce := p.call(t, srv.APIURL(), tokens.Access, "").Header.Get("DPoP-Nonce")
	wantStatus(t, "before", p.call(t, srv.APIURL(), tokens.Access, nonce), 200, "")
	srv.RevokeAccess()
	srv.ExpireNonces()
	stale := p.call(t, srv.APIURL(), tokens.Access, nonce)
	wantChallenge(t, "first", stale, "use_dpop_nonce", "")
	dead := p.call(t, srv.APIURL(), tokens.Access, stale.Header.Get("DPoP-Nonce"))
	wantChallenge(t, "then", dead, "invalid_token", "revoked")
}

func TestABearerTokenNeedsNoNonce(t *testing.T) {
	srv := tokentest.NewServer(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	tokens := refresh(t, srv, srv.RefreshToken())
	wantStatus(t, "refresh", tokens, 200, "")
	wantStatus(t, "the API", get(t, srv.APIURL(), tokens.Access), 200, "")
}

// The client's assertion comes before the proof, so it is spent when the proof
// is refused; the grant's comes after, so it is not.
func TestANonceChallengeSpendsTheClientsAssertionAndNotTheGrants(t *testing.T) {
	srv, key := trusting(t)
	srv.SetDPoP(tokentest.DPoP{Nonces: true})
	p := newProver(t)
	client := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))
	grant := signJWT(t, jwt.SigningMethodES256, key, goodClaims(srv, nil))
	form := []string{"grant_type", jwtBearer, "assertion", grant}
	byAssertion := append(form, "client_assertion_type", assertionType, "client_assertion", client)
	refused := postDPoP(t, srv, p.forToken(t, srv, ""), byAssertion...)
	wantStatus(t, "no nonce", refused, 400, "use_dpop_nonce")
	nonce := refused.Header.Get("DPoP-Nonce")
	again := postDPoP(t, srv, p.forToken(t, srv, nonce), byAssertion...)
	wantRefused(t, "the client's again", again, 401, "invalid_client", "used before")
	wantStatus(t, "the grant's again", postDPoP(t, srv, p.forToken(t, srv, nonce), form...), 200, "")
}

func TestProofsMayBeDemandedWhileRequestsRun(t *testing.T) {
	srv, p, tokens := bound(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { refreshDPoP(t, srv, srv.RefreshToken(), p.forToken(t, srv, "")) })
		all.Go(func() { p.call(t, srv.APIURL(), tokens.Access, "") })
		all.Go(func() { srv.SetDPoP(tokentest.DPoP{Required: true, Nonces: true}); srv.ExpireNonces() })
		all.Go(func() { srv.TrustKey(p.key.Public()) })
	}
	all.Wait()
	if got := srv.Counts(); got.TokenRequests != 51 || got.APIRequests != 50 || got.ProofReuses != 0 {
		t.Errorf("got %+v; want 51 token requests, 50 API requests, no reuse of a proof", got)
	}
}
