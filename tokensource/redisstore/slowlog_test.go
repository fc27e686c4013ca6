//go:build unix

package redisstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/redisstore"
)

// TestTheSlowLogShowsWhatIsSavedUnlessItIsEncrypted shows why Encrypted belongs over a
// redisstore: Redis keeps the arguments of slow commands, and MONITOR shows all.
func TestTheSlowLogShowsWhatIsSavedUnlessItIsEncrypted(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--slowlog-log-slower-than", "0")
	client := newClient(t, &redis.Options{Addr: s.addr()})
	plain := &redisstore.Store{Client: client}
	for shows, store := range map[bool]tokensource.Store{
		true:  plain,
		false: &tokensource.Encrypted{Store: plain, Keys: [][]byte{make([]byte, 32)}},
	} {
		if err := client.SlowLogReset(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		login := &tokensource.Token{AccessToken: "secret-access", RefreshToken: "secret-refresh", Expiry: time.Now().Add(time.Hour)}
		stored := &tokensource.Stored{Source: tokensource.Static(login), Store: store, Key: fmt.Sprint("user-", shows)}
		if err := stored.Set(t.Context(), login); err != nil {
			t.Fatal(err)
		}
		logs, err := client.SlowLogGet(t.Context(), 100).Result()
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(logs)
		if got := strings.Contains(text, "secret-"); got != shows || !strings.Contains(text, "user-") {
			t.Errorf("%T: the slow log shows the token: %t, want %t: %.300s", store, got, shows, text)
		}
	}
}
