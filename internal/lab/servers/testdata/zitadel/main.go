// The provider of zitadel/oidc over its example's storage, with access tokens of
// 2 s.
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const lifetime = 2 * time.Second

type shortLived struct{ *storage.Storage }

func (s shortLived) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	id, refresh, expiry, err := s.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
	if err != nil {
		return id, refresh, expiry, err
	}
	time.AfterFunc(lifetime, func() { s.RevokeToken(context.Background(), id, "", "app") })
	return id, refresh, time.Now().Add(lifetime), nil
}

func main() {
	address := "127.0.0.1:" + os.Args[1]
	storage.RegisterClients(storage.WebClient("app", "a secret of the suite", "https://app.example.com/callback"))
	users := storage.NewUserStore("http://localhost")
	log.Fatal(http.ListenAndServe(address, exampleop.SetupServer("http://"+address, shortLived{storage.NewStorage(users)}, nil, false)))
}
