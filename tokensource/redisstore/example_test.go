package redisstore_test

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/transport"
)

// Many processes act for a user who logged in once. Each refresh token works once, so
// one process refreshes, and the others read the new token from Redis.
func Example() {
	client := redis.NewClient(&redis.Options{Addr: "redis.internal:6379", Password: os.Getenv("REDIS_PASSWORD")})
	defer client.Close()

	tokens := &tokensource.Cache{Source: &tokensource.Stored{
		Source: &tokensource.RefreshToken{
			Endpoint:     tokensource.Endpoint{URL: "https://auth.example.com/token", ClientID: "reports"},
			RefreshToken: os.Getenv("REFRESH_TOKEN"), // what the login gave
		},
		Store: &redisstore.Store{Client: client, Prefix: "reports:"},
		Key:   "user-1234",
	}}
	api := &http.Client{Transport: &transport.Auth{Source: tokens}}

	resp, err := api.Get("https://api.example.com/reports")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
}

// A master has two replicas, and Sentinel promotes one if it fails. No refresh token is
// spent unless both know of it.
func ExampleStore_sentinel() {
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    "tokens",
		SentinelAddrs: []string{"sentinel-1.internal:26379", "sentinel-2.internal:26379", "sentinel-3.internal:26379"},
	})
	defer client.Close()
	store := &redisstore.Store{Client: client, Replicas: 2}

	stored := &tokensource.Stored{
		Source: &tokensource.RefreshToken{
			Endpoint: tokensource.Endpoint{URL: "https://auth.example.com/token", ClientID: "reports"},
		},
		Store: store,
		Key:   "user-1234",
	}
	_, err := stored.Token(context.Background(), nil)
	if e, ok := errors.AsType[*redisstore.ReplicasError](err); ok {
		log.Printf("%d of %d replicas are attached: no token until they are back", e.Acknowledged, e.Required)
	}
}

// In a cluster each master has a replica. A login that was not used for 90 days is removed.
func ExampleStore_cluster() {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"redis-1.internal:6379", "redis-2.internal:6379"}})
	defer client.Close()
	_ = &redisstore.Store{Client: client, Replicas: 1, TTL: 90 * 24 * time.Hour}
}

// Redis and its backups need not see the tokens. The key comes from the place of the
// program's other secrets.
func ExampleStore_encrypted() {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"redis-1.internal:6379", "redis-2.internal:6379"}})
	defer client.Close()
	key := make([]byte, 32) // stands for 32 random bytes

	tokens := &tokensource.Cache{Source: &tokensource.Stored{
		Source: &tokensource.ClientCredentials{
			Endpoint: tokensource.Endpoint{URL: "https://auth.example.com/token", ClientID: "reports", ClientSecret: os.Getenv("CLIENT_SECRET")},
		},
		Store:    &tokensource.Encrypted{Store: &redisstore.Store{Client: client}, Keys: [][]byte{key}},
		Key:      "reports",
		Unshared: true, // without Redis, each process obtains a token of its own
	}}
	if _, err := tokens.Token(context.Background(), nil); err != nil {
		log.Fatal(err)
	}
}
