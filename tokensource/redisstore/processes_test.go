//go:build unix

package redisstore_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

func TestProcesses(t *testing.T) {
	t.Parallel() // it waits a lot: the lock of a killed process must expire
	storetest.Processes(t,
		func(t *testing.T) string { return newServer(t).addr() },
		func(address string) tokensource.Store {
			return &redisstore.Store{Client: redis.NewClient(&redis.Options{Addr: address})}
		})
}
