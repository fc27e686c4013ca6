package tokentest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

func TestTheAPITellsWhatArrived(t *testing.T) {
	srv := tokentest.NewServer(t)
	for _, url := range []string{srv.APIURL(), srv.LegacyURL()} {
		req, _ := http.NewRequestWithContext(t.Context(), "PUT", url, strings.NewReader("hello"))
		req.Header.Set("Authorization", "bearer "+login(t, srv, srv.Password).Access)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		type body struct {
			SHA256, Method string
			Length         int
		}
		sum := sha256.Sum256([]byte("hello"))
		got, want := body{}, body{hex.EncodeToString(sum[:]), "PUT", 5}
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got != want {
			t.Errorf("%s: got %+v, error %v; want %+v", url, got, err, want)
		}
	}
}

func TestProtectChallengesAndNamesTheErrorOnlyIfThereIsAToken(t *testing.T) {
	srv := tokentest.NewServer(t)
	dead := login(t, srv, srv.Password).Access
	srv.RevokeAccess()
	for token, want := range map[string]string{
		"":       `Bearer realm="tokentest"`,
		dead:     `Bearer realm="tokentest", error="invalid_token"`,
		"forged": `Bearer realm="tokentest", error="invalid_token"`,
	} {
		got := get(t, srv.APIURL(), token)
		if challenge := got.Header.Get("WWW-Authenticate"); got.Status != 401 || challenge != want {
			t.Errorf("got status %d, challenge %q; want 401, %q", got.Status, challenge, want)
		}
	}
	want := tokentest.Counts{TokenRequests: 1, Issued: 1, APIRequests: 3, Refused: 3}
	if got := srv.Counts(); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func TestProtectForbiddenRefusesWithoutAChallenge(t *testing.T) {
	srv := tokentest.NewServer(t)
	dead := login(t, srv, srv.Password).Access
	srv.RevokeAccess()
	for _, token := range []string{"", dead} {
		got := get(t, srv.LegacyURL(), token)
		challenge, length := got.Header.Get("WWW-Authenticate"), got.Header.Get("Content-Length")
		if got.Status != 403 || challenge != "" || length != "0" {
			t.Errorf("got status %d, challenge %q, length %s; want 403, none, 0", got.Status, challenge, length)
		}
	}
}

func TestATokenOfAnotherServerIsRefusedAndNotRepeated(t *testing.T) {
	srv, other := tokentest.NewServer(t), tokentest.NewServer(t)
	token := login(t, other, other.Password).Access
	for _, token := range []string{token, token[:len(token)-9], "s3cret", "a.s3cret.c"} {
		err := srv.Check(token)
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got error %v; want one without the token", err)
		}
	}
}
