package pgstore_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
	"github.com/tokentripper/tokentripper/transport"
)

// Many processes act for a user who logged in once. Each refresh token works once, so
// one process refreshes, and the others read the new token from Postgres.
func Example() {
	pool, err := pgxpool.New(context.Background(), "postgres://reports@pg-1.internal,pg-2.internal/reports?target_session_attrs=read-write")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(context.Background(), pgstore.CreateTable); err != nil { // or in your migrations
		log.Fatal(err)
	}

	tokens := &tokensource.Cache{Source: &tokensource.Stored{
		Source: &tokensource.RefreshToken{
			Endpoint:     tokensource.Endpoint{URL: "https://auth.example.com/token", ClientID: "reports"},
			RefreshToken: os.Getenv("REFRESH_TOKEN"), // what the login gave
		},
		Store: &pgstore.Store{Pool: pool},
		Key:   "user-1234",
	}}
	api := &http.Client{Transport: &transport.Auth{Source: tokens}}

	resp, err := api.Get("https://api.example.com/reports")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
}

// A table with another name, in a schema of its own.
func ExampleStore_table() {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	create := strings.Replace(pgstore.CreateTable, "tokentripper_tokens", "auth.tokens", 1)
	if _, err := pool.Exec(context.Background(), create); err != nil {
		log.Fatal(err)
	}
	_ = &pgstore.Store{Pool: pool, Table: "auth.tokens"}
}
