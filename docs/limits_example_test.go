package docs_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
	"github.com/tokentripper/tokentripper/transport"
)

// A file of any size is sent again without being recorded, if GetBody can open it
// again.
func Example_fileUpload() {
	srv := tokentest.Start()
	defer srv.Close()
	client := &http.Client{Transport: &transport.Auth{
		Source: &tokensource.Cache{Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: srv.TokenURL(), ClientID: srv.ClientID, ClientSecret: srv.ClientSecret},
		}},
	}}

	upload := func(name string) (*http.Response, error) {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequest(http.MethodPost, srv.APIURL(), file)
		if err != nil {
			return nil, err
		}
		req.ContentLength = info.Size()
		req.GetBody = func() (io.ReadCloser, error) { return os.Open(name) }
		return client.Do(req)
	}

	for range 2 {
		resp, err := upload("how-it-works.svg")
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
		srv.RevokeAccess()
	}
	// Output:
	// 200 OK
	// 200 OK
}
