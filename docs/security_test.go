package docs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
	"github.com/tokentripper/tokentripper/transport"
)

// What security.md and operating.md say that no other test shows.

func TestWithoutOriginsAnyURLThatARequestBeginsAtGetsTheToken(t *testing.T) {
	for _, c := range []struct {
		origins []string
		want    string
	}{
		{nil, "Bearer at"},
		{[]string{"https://api.example.com"}, ""},
	} {
		seen := ""
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			seen = req.Header.Get("Authorization")
			return httptest.NewRecorder().Result(), nil
		})
		client := &http.Client{Transport: &transport.Auth{Source: static(""), Base: base, Origins: c.origins}}
		if _, err := client.Get("https://attacker.example/"); err != nil || seen != c.want {
			t.Errorf("Origins %q: the other origin got %q, %v, want %q", c.origins, seen, err, c.want)
		}
	}
}

func TestATraceOfTheCallersSeesTheToken(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	var seen string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteHeaderField: func(name string, values []string) {
			if name == "Authorization" {
				seen = strings.Join(values, " ")
			}
		},
	})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	resp, err := (&transport.Auth{Source: static("")}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if seen != "Bearer at" {
		t.Errorf("the trace saw %q, want the token", seen)
	}
}

func TestAProofGoesWhereTheTokenMustNot(t *testing.T) {
	var token, proof string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		token, proof = r.Header.Get("Authorization"), r.Header.Get("DPoP")
	}))
	defer other.Close()
	api := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer api.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &transport.Auth{Source: static("DPoP"), Base: &transport.DPoP{Key: key}}}
	resp, err := client.Get(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if token != "" || proof == "" {
		t.Errorf("the other origin got the token %q and the proof %q, want no token and a proof", token, proof)
	}
}

func TestEncryptionKeysAreChangedInThreeDeployments(t *testing.T) {
	old, next := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	store := new(storetest.Memory)
	// reads saves with the keys of one release, and loads with those of another.
	reads := func(saver, loader [][]byte) bool {
		e := &tokensource.Encrypted{Store: store, Keys: saver}
		err := e.Update(t.Context(), "k", func(_ []byte, save func([]byte) error) error { return save([]byte("token")) })
		if err == nil {
			_, err = (&tokensource.Encrypted{Store: store, Keys: loader}).Load(t.Context(), "k")
		}
		return err == nil
	}
	releases := [][][]byte{{old}, {old, next}, {next, old}, {next}}
	for i := range releases[1:] {
		a, b := releases[i], releases[i+1]
		if !reads(a, b) || !reads(b, a) {
			t.Errorf("releases %d and %d, side by side, do not read each other's values", i, i+1)
		}
	}
	if reads(releases[2], releases[0]) {
		t.Error("a release with the old key alone reads what the new key has encrypted")
	}
}
