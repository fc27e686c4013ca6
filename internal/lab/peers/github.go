package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"sync"

	"github.com/bradleyfalzon/ghinstallation/v2"
)

var github = peer{
	name:   "ghinstallation",
	module: "github.com/bradleyfalzon/ghinstallation/v2",
	setup:  "`ghinstallation.New`, with the servers as GitHub. It has no refresh tokens.",
	dial: func(w *world) (doer, error) {
		t, err := ghinstallation.New(w.base, 1, 1, appKey())
		if err != nil {
			return nil, err
		}
		t.BaseURL = w.Auth
		return &http.Client{Transport: t}, nil
	},
}

// appKey is the private key of those who sign their token requests.
var appKey = sync.OnceValue(func() []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
})
