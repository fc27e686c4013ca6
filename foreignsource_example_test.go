package tokentripper_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A foreignToken and a foreignSource look like those of golang.org/x/oauth2
// and many other libraries.
type (
	foreignToken struct {
		AccessToken string
		Expiry      time.Time
	}
	foreignSource interface {
		Token() (*foreignToken, error)
	}
)

// numbered is a foreignSource for the example.
type numbered struct{ issued atomic.Int32 }

func (n *numbered) Token() (*foreignToken, error) {
	name := fmt.Sprintf("token-%d", n.issued.Add(1))
	return &foreignToken{AccessToken: name, Expiry: time.Now().Add(time.Hour)}, nil
}

// Another library's tokens, such as those of an oauth2.TokenSource. Give it one
// that obtains a token at each call, for the Cache keeps it. A source that caches by
// itself works as well, but has no other token when a server refuses one
// before its time: the caller then gets the refusal.
func Example_foreignSource() {
	var theirs foreignSource = new(numbered)

	source := tokensource.Func(func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		t, err := theirs.Token()
		if err != nil {
			return nil, err
		}
		return &tokensource.Token{AccessToken: t.AccessToken, Expiry: t.Expiry}, nil
	})

	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
		if r.Header.Get("Authorization") != "Bearer token-2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: source}}}
	resp, err := client.Get(api.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// Bearer token-1
	// Bearer token-2
	// 200 OK
}
