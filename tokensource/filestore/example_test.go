package filestore_test

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/filestore"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// Two processes on one machine share a refresh token. The second goes on with the token
// that the first has saved, although its configuration has the token of the login.
func Example_twoProcesses() {
	srv := tokentest.Start() // stands for your authorization server and your API
	defer srv.Close()
	login := srv.RefreshToken() // what the user's login gave
	dir, err := os.MkdirTemp("", "reports")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	start := func() *http.Client {
		return &http.Client{Transport: &transport.Auth{
			Source: &tokensource.Cache{Source: &tokensource.Stored{
				Source: &tokensource.RefreshToken{
					Endpoint:     tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID},
					RefreshToken: login,
				},
				Store: &filestore.Store{Dir: dir},
				Key:   "reports",
			}},
		}}
	}
	for _, client := range []*http.Client{start(), start()} {
		resp, err := client.Get(srv.APIURL())
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
		srv.RevokeAccess()
	}
	fmt.Println("refresh tokens used twice:", srv.Counts().Reuses)
	// Output:
	// 200 OK
	// 200 OK
	// refresh tokens used twice: 0
}
